//! The allocator: an agent works for seconds and then waits for hours, so what a sync has freed is
//! given back to the host at once.
//!
//! glibc keeps a page as long as anything above it in its arena is in use; after a sync that was
//! most of what the sync had ever held. jemalloc gives back each page that is free, and does
//! so in the call that frees it: with a delay it waits for later calls, of which an idle agent makes
//! too few. Its settings are compiled in (`.cargo/config.toml`); `_RJEM_MALLOC_CONF` in the
//! environment overrides them.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tests {
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
        let after = resident();
        assert_eq!(pieces.len(), WHOLE / PIECE / 1024);
        assert!(after < before + NOISE, "{before} {held} {after}");
    }
}
