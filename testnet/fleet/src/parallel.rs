//! Work on many items by several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does `work` with all items, `width` at a time; what came of each, in order, or the first failure. A panic
/// of a thread goes on in the caller.
pub fn each<I: Sync, T: Send, E: Send>(
    items: &[I],
    width: usize,
    work: impl Fn(usize, &I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let take = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        Some((at, items.get(at)?))
    };
    let worker = || {
        let taken = std::iter::from_fn(take);
        taken.map(|(at, item)| (at, work(at, item))).collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, Result<T, E>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..width.min(items.len())).map(|_| scope.spawn(worker)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(join).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Has `count` clients work side by side; what each gave, in order, or the first failure.
pub fn side_by_side<T: Send, E: Send>(
    count: usize,
    client: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    each(&vec![(); count], count, |number, ()| client(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_many_threads_keep_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        let outcomes: Result<_, ()> = each(&items, 7, |at, item| Ok((at, item * 2)));
        assert_eq!(outcomes, Ok(items.iter().map(|item| (*item, item * 2)).collect()));
        let odd = |number| if number % 2 == 1 { Err(number) } else { Ok(number) };
        assert_eq!(side_by_side(4, odd), Err(1));
        assert_eq!(side_by_side(0, odd), Ok(Vec::new()));
    }
}
