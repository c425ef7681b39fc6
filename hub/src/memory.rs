//! The allocator, the agent's: a hub frees on one thread what it took on another and holds pieces of
//! every size for a moment. With glibc's a fifth of its time went there, and what a burst had taken
//! stayed taken. The settings are compiled in (`.cargo/config.toml`).

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
