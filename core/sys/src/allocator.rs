//! The allocator of the C library.

/// Makes glibc's allocator keep less memory that nobody uses; others are left as they are. To be called once, before there are
/// threads.
///
/// By default each thread gets an arena of its own, which keeps what was freed in it, and large blocks are no longer given back
/// to the kernel once one was freed. A program with a few threads that hand buffers to each other then needs a third more memory,
/// and is not measurably faster.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 128 << 10)] {
        // SAFETY: `mallopt` takes two numbers and is called before there are threads. Refused values change nothing. There is no
        // safe call.
        unsafe { libc::mallopt(parameter, value) };
    }
}
