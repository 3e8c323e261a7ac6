//! `evermesh-libfuzzer`: libFuzzer with the target that the variable `FUZZ_TARGET` names. `scripts/fuzz` builds and runs
//! it.

#![no_main]

use std::{env, sync::OnceLock};

use evermesh_fuzz::{FuzzTarget, mutate};
use fastrand::Rng;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

static TARGET: OnceLock<FuzzTarget> = OnceLock::new();

/// The target of this process.
///
/// # Panics
/// If the variable `FUZZ_TARGET` names none.
fn target() -> &'static FuzzTarget {
    TARGET.get_or_init(|| {
        let name = env::var("FUZZ_TARGET").unwrap_or_default();
        FuzzTarget::find(&name)
            .unwrap_or_else(|| panic!("FUZZ_TARGET is `{name}`, which is not a target"))
    })
}

fuzz_target!(|input: &[u8]| (target().run)(input));

// Half of the inputs are changed by libFuzzer, which learns from comparisons, and half as their format allows.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut random = Rng::with_seed(seed.into());
    let input = data[..size].to_vec();
    let changed = mutate(target().format, &input, &input, &mut random);
    let length = changed.len().min(max_size);
    data[..length].copy_from_slice(&changed[..length]);
    length
});
