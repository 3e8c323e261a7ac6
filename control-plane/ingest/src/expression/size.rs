//! The largest size of RE2's program for an expression.
//!
//! RE2 shares common parts of alternatives and merges neighbouring repetitions, so its program may be smaller.

use super::parse::Node;

/// The size of the constant part of a program.
const FRAME: u64 = 4;

pub(super) fn of_program(node: &Node) -> u64 {
    size(node).saturating_add(FRAME)
}

/// The program consists of lists of instructions. A list that reaches the beginning of another one jumps there, which is an
/// instruction too.
fn size(node: &Node) -> u64 {
    let sum = |nodes: &[Node]| nodes.iter().map(size).fold(0, u64::saturating_add);
    match node {
        Node::Leaf(size) => *size,
        Node::Assertion => 1,
        Node::Capture(node) => size(node).saturating_add(2),
        Node::Concat(nodes) => sum(nodes),
        Node::Alternate(nodes) => {
            let jumps = nodes.iter().filter(|node| begins_with_jump(node)).count();
            sum(nodes).saturating_add(jumps as u64)
        }
        Node::Repeat { node, least, most } => {
            let copies = |count: u32| size(node).saturating_mul(count.into());
            let into_node = u64::from(begins_with_jump(node));
            if let Some(most) = most {
                let optional = u64::from(most - least);
                return copies(*most).saturating_add(optional.saturating_mul(1 + into_node));
            }
            let loops = match (node.is_nullable(), least) {
                (true, _) => 5,
                (false, 0) => 1,
                (false, _) => 2,
            };
            // The last copy is repeated.
            copies((*least).max(1)).saturating_add(loops + into_node)
        }
    }
}

fn begins_with_jump(node: &Node) -> bool {
    match node {
        Node::Leaf(size) => *size == 0,
        Node::Assertion | Node::Capture(_) => false,
        Node::Concat(nodes) => nodes.first().is_none_or(begins_with_jump),
        Node::Alternate(_) | Node::Repeat { .. } => true,
    }
}
