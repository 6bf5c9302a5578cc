//! Which CPU a thread runs on.

/// Keeps the calling thread on one CPU. Where there is no such CPU it stays where it is.
pub fn pin_to(cpu: usize) {
    // SAFETY: the set is a plain bit set of ours, which CPU_SET writes within its bounds; the kernel only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu < 8 * size_of::<libc::cpu_set_t>() {
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
}
