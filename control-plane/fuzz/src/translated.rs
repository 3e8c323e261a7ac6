//! The checks of `evermesh-translate`'s own tests, included by path, because a crate under test must not contain them.

#![allow(dead_code, unreachable_pub)] // this crate uses a part
#![allow(clippy::unwrap_used)] // a panic is a broken invariant

#[path = "../../translate/tests/support/case.rs"]
mod case;
#[path = "../../translate/tests/support/check.rs"]
mod check;

pub(crate) use check::consistent;
