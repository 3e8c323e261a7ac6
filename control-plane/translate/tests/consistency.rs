//! Properties of every translation.

mod support;

use evermesh_translate::{DeriveMemo, derive};
use support::{builders, check};

#[test]
fn a_large_graph_is_consistent() {
    let derived = derive(&builders::large(12), &mut DeriveMemo::default());
    assert_eq!(derived.views.len(), 12);
    check::consistent(&derived);
}
