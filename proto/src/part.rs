//! Resources that consist of parts: a route configuration with its virtual hosts, a listener with its filter chains.
//!
//! A part is the encoding of one element of a repeated field. Concatenated protobuf messages merge, so a resource is the
//! concatenation of its base, which has all other fields, and its parts:
//!
//! ```text
//! rds_egress_http_8080    base:   name
//!                         parts:  color.shop    needs cds_egress_shop_blue_shop_http_8080
//!                                 shape.shop    needs cds_egress_shop_round_shop_http_8080
//! ```
//!
//! If a client rejected a cluster, [`Resource::keeping`] makes a resource in which the parts that need it stay as they are
//! in the client's copy, and everything else is new.

use std::{collections::BTreeSet, mem, ops::Range, sync::Arc};

use prost::bytes::{Bytes, BytesMut};

use crate::resource::{Resource, ResourceType};

/// The base of a resource or one of its parts. The body that it describes is a range of the resource's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourcePart {
    /// Text that stands for the matched traffic, such as a host name or a port; empty for the base. Unique within the
    /// resource: a client accepts parts of different names together, in whatever versions they are combined.
    pub name: Arc<str>,
    /// Names of the clusters that the part refers to, ascending.
    pub needs: Arc<[Arc<str>]>,
    /// The user's objects from which the part was derived, ascending.
    pub origins: Arc<[Arc<str>]>,
    /// Offset in the resource's body at which the part ends. It starts where the previous one ends.
    end: usize,
}

/// A part with its encoded body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPart {
    /// The resource message with the element of the part and no other field.
    pub body: Bytes,
    /// See [`ResourcePart::name`].
    pub name: Arc<str>,
    /// See [`ResourcePart::needs`].
    pub needs: Arc<[Arc<str>]>,
    /// See [`ResourcePart::origins`].
    pub origins: Arc<[Arc<str>]>,
}

impl Resource {
    /// Concatenates a resource of type `kind` from its base and its parts. `base` is a message that carries the resource
    /// name; this is not checked.
    ///
    /// The resource needs the clusters and has the origins of all of them.
    pub fn from_parts(
        kind: ResourceType,
        name: Arc<str>,
        base: EncodedPart,
        parts: impl IntoIterator<Item = EncodedPart>,
    ) -> Self {
        let encoded: Vec<EncodedPart> = std::iter::once(base).chain(parts).collect();
        let size = encoded.iter().map(|part| part.body.len()).sum();
        let mut body = BytesMut::with_capacity(size);
        let parts = encoded.into_iter().map(|part| {
            let EncodedPart {
                body: encoded,
                name,
                needs,
                origins,
            } = part;
            body.extend_from_slice(&encoded);
            ResourcePart {
                name,
                needs,
                origins,
                end: body.len(),
            }
        });
        let parts: Arc<[ResourcePart]> = parts.collect();
        let needs = union(&parts, |part| &part.needs);
        let origins = union(&parts, |part| &part.origins);
        Self {
            parts,
            ..Self::from_encoded(kind, name, body.freeze())
        }
        .with_needs(needs)
        .with_origins(origins)
    }

    /// This resource for a client that rejected clusters and has `copy`: each part that needs one of them is as in
    /// `copy`, and left out if `copy` has none of its name. Parts that only `copy` has stay too, because other resources
    /// of the client may still lead to them.
    ///
    /// Returns `self` if no part needs a rejected cluster. Returns `None` if the base needs one, and for a resource
    /// without parts that needs one: nothing of it can be taken without the rest. The result has the origins of `self`.
    pub fn keeping(&self, copy: &Self, is_rejected: impl Fn(&str) -> bool) -> Option<Self> {
        let is_blocked = |needs: &[Arc<str>]| needs.iter().any(|need| is_rejected(need));
        if !is_blocked(&self.needs) {
            return Some(self.clone());
        }
        let (base, newest) = self.encoded_parts()?;
        if is_blocked(&base.needs) {
            return None;
        }
        let is_new = |name: &str| newest.iter().any(|part| *part.name == *name);
        let old = copy.encoded_parts().map_or_else(Vec::new, |(_, old)| old);
        let find = |name: &str| old.iter().find(|part| *part.name == *name);
        let taken = newest.iter().filter_map(|part| {
            if is_blocked(&part.needs) {
                find(&part.name)
            } else {
                Some(part)
            }
        });
        let removed = old.iter().filter(|part| !is_new(&part.name));
        let parts = taken.chain(removed).cloned();
        let kept = Self::from_parts(self.kind, Arc::clone(&self.name), base, parts);
        Some(kept.with_origins(Arc::clone(&self.origins)))
    }

    /// The origins of what [`keeping`](Self::keeping) takes from the client's copy, and the origins of the base, which
    /// stands for the resource as a whole.
    pub fn origins_needing(&self, is_rejected: impl Fn(&str) -> bool) -> BTreeSet<Arc<str>> {
        let is_blocked = |needs: &[Arc<str>]| needs.iter().any(|need| is_rejected(need));
        match self.parts.split_first() {
            Some((base, parts)) if !is_blocked(&base.needs) => std::iter::once(base)
                .chain(parts.iter().filter(|part| is_blocked(&part.needs)))
                .flat_map(|part| part.origins.iter().cloned())
                .collect(),
            Some(_) | None => self.origins.iter().cloned().collect(),
        }
    }

    /// The base and the parts with their bodies; `None` for a resource that does not consist of parts.
    pub fn encoded_parts(&self) -> Option<(EncodedPart, Vec<EncodedPart>)> {
        let mut parts = self.ranges().map(|(part, range)| EncodedPart {
            body: self.body.slice(range),
            name: Arc::clone(&part.name),
            needs: Arc::clone(&part.needs),
            origins: Arc::clone(&part.origins),
        });
        let base = parts.next()?;
        Some((base, parts.collect()))
    }

    /// The base and the parts, each with its body; nothing for a resource that does not consist of parts.
    pub fn part_bodies(&self) -> impl Iterator<Item = (&ResourcePart, &[u8])> {
        self.ranges().map(|(part, range)| (part, &self.body[range]))
    }

    fn ranges(&self) -> impl Iterator<Item = (&ResourcePart, Range<usize>)> {
        let mut start = 0;
        self.parts
            .iter()
            .map(move |part| (part, mem::replace(&mut start, part.end)..part.end))
    }
}

fn union(
    parts: &[ResourcePart],
    names: impl Fn(&ResourcePart) -> &Arc<[Arc<str>]>,
) -> Arc<[Arc<str>]> {
    let mut all: Vec<&Arc<str>> = parts.iter().flat_map(|part| names(part).iter()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().cloned().collect()
}
