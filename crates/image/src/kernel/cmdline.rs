//! The kernel's command line where the user gives none.
//!
//! Debian's stock kernel executes 1.33 G instructions up to its first process,
//! counted in QEMU (`-icount shift=0`, 128 MiB, a processor with RDRAND and
//! ERMS); most of them for things that a microVM never uses. What is left out
//! here brings that to 309 M, and with [`Features::Few`] to 210 M:
//!
//! | left out | saves |
//! | --- | --- |
//! | self-tests of the cryptography | 890 M |
//! | looking up the symbol of every traceable function | 75 M |
//! | types for BPF, with [`Features::Few`] | 53 M |
//! | folders for trace events, with [`Features::Few`] | 40 M |
//! | names in the text of trace events' formats | 35 M |
//! | /sys/kernel/slab, with [`Features::Few`] | 6 M |
//! | loading the built-in certificates | 5 M |
//! | the self-test of one hash function | 4 M |

use super::Source;

/// What the kernel is to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// Everything that programs use. For machines that live long.
    All,
    /// Without trace events in tracefs, BPF kernel functions, /sys/kernel/slab
    /// and CUBIC congestion control (Reno takes its place). Starts a third
    /// sooner on Debian's kernel; for a single command.
    Few,
}

/// Initial calls of Debian's 6.1 that nobody misses, with the reason. A kernel
/// that has no such function ignores its name.
const UNUSED_CALLS: [(&str, &str); 4] = [
    ("trace_eval_init", "only makes the formats of trace events more readable"),
    ("ftrace_check_for_weak_functions", "only hides overridden functions from lists"),
    ("load_system_certificate_list", "no module's signature is checked: they come without"),
    ("blake2s_mod_init", "only a self-test"),
];

/// Initial calls whose features a single command rarely needs.
const RARE_CALLS: [(&str, &str); 8] = [
    // Registering any kernel function for BPF makes the kernel read all of its
    // own types, so all of them are left out or none.
    ("cubictcp_register", "registers BPF kernel functions; Reno remains"),
    ("bpf_tcp_ca_kfunc_init", "registers BPF kernel functions"),
    ("kfunc_init", "registers BPF kernel functions"),
    ("bpf_prog_test_run_init", "registers BPF kernel functions"),
    ("bpf_rstat_kfunc_init", "registers BPF kernel functions"),
    ("bpf_key_sig_kfuncs_init", "registers BPF kernel functions"),
    ("tracer_init_tracefs", "a folder for each of thousands of trace events"),
    ("slab_sysfs_init", "a folder for each kind of kernel object"),
];

/// Options for every kernel, with the reason.
const COMMON: [(&str, &str); 8] = [
    ("console=ttyS0", "the serial line is the only console"),
    ("quiet", "each character shown is an exit to the host"),
    ("panic=1", "a panicked machine ends, so that its owner notices"),
    ("reboot=k", "a restart by the keyboard controller, which ends the machine"),
    ("random.trust_cpu=on", "random numbers from the start, without waiting for events"),
    ("8250.nr_uarts=1", "no probing for further serial lines"),
    ("i8042.noaux", "no probing for a mouse"),
    ("no_timer_check", "no counting of timer interrupts against a delay loop"),
];

/// Options for Debian's kernel, with the reason.
const DEBIAN: [(&str, &str); 2] = [
    ("cryptomgr.notests", "self-tests do RSA, two thirds of all instructions of the boot"),
    ("audit=0", "no audit records of what nobody audits"),
];

/// The command line for a kernel. Options for the disk, the network and init
/// are the caller's to add.
pub fn default(source: Source, features: Features) -> String {
    let mut words: Vec<String> = COMMON.iter().map(|(word, _)| word.to_string()).collect();
    // The compiled kernel has none of what is left out.
    if source == Source::Debian {
        words.extend(DEBIAN.iter().map(|(word, _)| word.to_string()));
        let rare = match features {
            Features::All => &[],
            Features::Few => RARE_CALLS.as_slice(),
        };
        let calls: Vec<&str> = UNUSED_CALLS.iter().chain(rare).map(|(call, _)| *call).collect();
        words.push(format!("initcall_blacklist={}", calls.join(",")));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_short_and_complete() {
        for source in [Source::Debian, Source::Built] {
            for features in [Features::All, Features::Few] {
                let line = default(source, features);
                assert!(line.starts_with("console=ttyS0 quiet"));
                // COMMAND_LINE_SIZE is 2048; options of the machine follow.
                assert!(line.len() < 1024, "{}", line.len());
            }
        }
        assert!(default(Source::Debian, Features::Few).contains("kfunc_init"));
        assert!(!default(Source::Debian, Features::All).contains("kfunc_init"));
        assert!(!default(Source::Built, Features::Few).contains("initcall"));
    }
}
