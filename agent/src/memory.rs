//! The allocator: an agent works for seconds and then waits for hours, so what a sync has freed is
//! given back to the host within a second.
//!
//! glibc keeps a page as long as anything above it in its arena is in use; after a sync that was
//! most of what the sync had ever held. jemalloc gives back each page that is free: half a second
//! after it was freed, since a burst of events uses it again at once, and giving back and taking
//! anew cost a seventh of the agent's time. A thread of its own does so, as an idle agent calls the
//! allocator too seldom. The settings are compiled in (`.cargo/config.toml`); `_RJEM_MALLOC_CONF`
//! in the environment overrides them.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use std::time::{Duration, Instant};

    /// Returns the resident memory of this process in bytes; the second field of proc(5)'s
    /// `statm`, in pages of 4 KiB.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages = statm.split(' ').nth(1).unwrap();
        pages.parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn memory_that_is_freed_between_what_stays_is_given_back() {
        const PIECE: usize = 1 << 10;
        const WHOLE: usize = 128 << 20;
        // Tests beside this one take and free memory too.
        const NOISE: usize = WHOLE / 4;
        let before = resident();
        let mut pieces: Vec<Vec<u8>> = (0..WHOLE / PIECE).map(|_| vec![1; PIECE]).collect();
        let held = resident();
        assert!(held > before + WHOLE - NOISE, "{before} {held}");
        // Every 1,024th stays, as the last too: no allocator can only lower its end.
        pieces.reverse();
        let mut at = 0;
        pieces.retain(|_| {
            at += 1;
            at % 1024 == 1
        });
        let begun = Instant::now();
        while resident() >= before + NOISE && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let after = resident();
        assert_eq!(pieces.len(), WHOLE / PIECE / 1024);
        assert!(after < before + NOISE, "{before} {held} {after}");
    }
}
