//! Steps of a client and of the store, and their encoding.

/// Types that Evermesh serves, in the order of `ResourceType::ALL`; the number itself stands for a type that it does not
/// serve, and larger ones for none.
pub(crate) const TYPES: u8 = 5;

/// Names of resources; bit N of a mask selects the N-th. The store only ever has the first two, and the third as a Secret.
pub(crate) const NAMES: [&str; 6] = ["a", "b", "key", "*", "", "absent"];

/// The request contains the node.
pub(crate) const NODE: u8 = 1;
/// The request answers the last response of its type. Otherwise it has no nonce.
pub(crate) const LAST_NONCE: u8 = 2;
/// The request is a NACK.
pub(crate) const NACK: u8 = 4;
/// The request lists versions that the client has: real ones, a wrong one, and one that is none.
pub(crate) const VERSIONS: u8 = 8;
/// The nonce of the request is not one of this stream.
pub(crate) const WRONG_NONCE: u8 = 16;
/// The node of the request is one that the server refuses.
pub(crate) const FORBIDDEN: u8 = 32;

/// One step of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The client sends a request. Names are masks.
    Request {
        kind: u8,
        subscribe: u8,
        unsubscribe: u8,
        flags: u8,
    },
    /// The client sends these bytes as one message.
    Message(Vec<u8>),
    /// The client sends these bytes, which need not be a message.
    Chunk(Vec<u8>),
    /// The client sends `count` names with about `16 * length` bytes each.
    Names { kind: u8, count: u8, length: u8 },
    /// The store gets a resource that needs these clusters.
    Put {
        kind: u8,
        name: u8,
        content: u8,
        needs: u8,
    },
    /// The store loses a resource.
    Remove { kind: u8, name: u8 },
    /// The view of the client appears or disappears.
    View { is_present: bool },
    /// The client ends its half of the stream.
    End,
}

/// Decodes steps. Any bytes are steps.
#[derive(Debug)]
pub(crate) struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The next byte, or 0 after the last one.
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes.to_vec()
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.byte() % 9 {
            0 => Step::Message(self.bytes()),
            1 => Step::Chunk(self.bytes()),
            2 => Step::Names {
                kind: self.byte(),
                count: self.byte(),
                length: self.byte(),
            },
            3 => Step::Put {
                kind: self.byte(),
                name: self.byte(),
                content: self.byte(),
                needs: self.byte(),
            },
            4 => Step::Remove {
                kind: self.byte(),
                name: self.byte(),
            },
            5 => Step::View {
                is_present: self.byte() % 2 == 1,
            },
            6 => Step::End,
            _ => Step::Request {
                kind: self.byte(),
                subscribe: self.byte(),
                unsubscribe: self.byte(),
                flags: self.byte(),
            },
        })
    }
}

/// The input that [`Steps`] decodes to these steps.
pub(crate) fn encoded(service: u8, steps: &[Step]) -> Vec<u8> {
    let mut input = vec![service];
    for step in steps {
        match step {
            Step::Message(bytes) | Step::Chunk(bytes) => {
                input.push(u8::from(matches!(step, Step::Chunk(_))));
                let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                input.extend(length.to_be_bytes());
                input.extend(bytes);
            }
            Step::Names {
                kind,
                count,
                length,
            } => input.extend([2, *kind, *count, *length]),
            Step::Put {
                kind,
                name,
                content,
                needs,
            } => input.extend([3, *kind, *name, *content, *needs]),
            Step::Remove { kind, name } => input.extend([4, *kind, *name]),
            Step::View { is_present } => input.extend([5, u8::from(*is_present)]),
            Step::End => input.push(6),
            Step::Request {
                kind,
                subscribe,
                unsubscribe,
                flags,
            } => input.extend([7, *kind, *subscribe, *unsubscribe, *flags]),
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_decode_to_their_steps() {
        let steps = [
            Step::Message(vec![1, 2]),
            Step::Chunk(vec![]),
            Step::Names {
                kind: 1,
                count: 2,
                length: 3,
            },
            Step::Put {
                kind: 1,
                name: 2,
                content: 3,
                needs: 4,
            },
            Step::Remove { kind: 1, name: 2 },
            Step::View { is_present: true },
            Step::End,
            Step::Request {
                kind: 1,
                subscribe: 2,
                unsubscribe: 3,
                flags: 4,
            },
        ];
        let input = encoded(9, &steps);
        let mut decoded = Steps::new(&input);
        assert_eq!(decoded.byte(), 9);
        assert_eq!(decoded.collect::<Vec<_>>(), steps);
    }
}
