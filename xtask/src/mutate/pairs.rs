//! Work on two items at a time.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use anyhow::Result;

/// Obtains a result for each number on two threads, and hands it over on this one.
///
/// # Errors
///
/// The first error of one of the functions.
pub(crate) fn try_each<T: Send>(
    numbers: impl IntoIterator<Item = usize, IntoIter: Send>,
    result: impl Fn(usize) -> Result<T> + Sync,
    mut accept: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let numbers = Mutex::new(numbers.into_iter());
    let next = || {
        numbers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    };
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (sender, next, result) = (sender.clone(), &next, &result);
            scope.spawn(move || {
                while let Some(number) = next() {
                    if sender.send((number, result(number))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (number, result) in receiver {
            accept(number, result?)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn each_number_is_accepted_once() {
        let mut accepted = Vec::new();
        let accept = |number, double| {
            accepted.push((number, double));
            Ok(())
        };
        try_each(0..5, |number| Ok(2 * number), accept).unwrap();
        accepted.sort_unstable();
        assert_eq!(accepted, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8)]);
    }

    #[test]
    fn first_error_ends_the_work() {
        let fail = |number| if number == 3 { bail!("three") } else { Ok(()) };
        assert!(try_each(0..5, fail, |_, ()| Ok(())).is_err());
    }
}
