//! `sparkler doctor`: what the host offers, what that means, and what to do about it.
//!
//! Each finding is one row of [`examine`]; nothing is changed on the host.

use std::io;

use host::probe::{self, Userfaultfd};
use serde::Serialize;

use crate::cli::DoctorArgs;

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something works less well, or not without root.
    Limited,
    /// Something does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    name: &'static str,
    status: Status,
    /// What was seen.
    found: String,
    /// What that means for the user.
    meaning: &'static str,
    /// What to do about it; empty where nothing is to be done.
    advice: &'static str,
}

/// Looks, and prints.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let findings = examine();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
        return Ok(());
    }
    for finding in &findings {
        print(finding);
    }
    Ok(())
}

fn print(finding: &Finding) {
    let mark = match finding.status {
        Status::Ok => "ok     ",
        Status::Limited => "limited",
        Status::Missing => "missing",
    };
    println!("{mark}  {}: {}", finding.name, finding.found);
    println!("         {}", finding.meaning);
    if !finding.advice.is_empty() {
        println!("         -> {}", finding.advice);
    }
}

fn examine() -> Vec<Finding> {
    let mut findings = vec![kvm(), memory(), tun(), user_namespaces(), userfaultfd(), cgroups()];
    findings.extend(PROGRAMS.iter().map(program));
    findings
}

fn kvm() -> Finding {
    let fitness = kvm::probe::probe();
    let speed = fitness.guest_mips.map(|mips| format!(", {mips:.0} million instructions a second"));
    let found = format!("{}{}", fitness.reason, speed.unwrap_or_default());
    let (status, meaning, advice) = match fitness.usable {
        true => (Status::Ok, "guests run at the processor's own speed", ""),
        false => (
            Status::Limited,
            "guests run on the software CPU: everything works, several times slower",
            "on hardware of your own, enable virtualisation in the firmware and load kvm_amd or \
             kvm_intel; on a cloud, take an instance with nested virtualisation",
        ),
    };
    Finding { name: "KVM", status, found, meaning, advice }
}

fn memory() -> Finding {
    const NEEDED_MIB: u64 = 512;
    let name = "memory";
    match host::system::host_memory() {
        Some(memory) => {
            let (available, total) = (memory.available >> 20, memory.total >> 20);
            let enough = available >= NEEDED_MIB;
            Finding {
                name,
                status: if enough { Status::Ok } else { Status::Limited },
                found: format!("{available} MiB available of {total} MiB"),
                meaning: "a guest takes only what it touches, up to its size (256 MiB by default)",
                advice: if enough {
                    ""
                } else {
                    "end other programs, or start small: --memory 64M"
                },
            }
        }
        None => Finding {
            name,
            status: Status::Limited,
            found: "/proc/meminfo does not tell".to_owned(),
            meaning: "a guest larger than the host's memory is not refused in advance",
            advice: "mount /proc",
        },
    }
}

fn tun() -> Finding {
    let advice = "as root: modprobe tun; mkdir -p /dev/net; mknod /dev/net/tun c 10 200; chmod 666 \
                  /dev/net/tun";
    from_result(
        ("tun", probe::device("/dev/net/tun")),
        "/dev/net/tun can be opened",
        ["guests can have network cards on taps of the host", "guests have no network cards"],
        advice,
    )
}

fn user_namespaces() -> Finding {
    from_result(
        ("user namespaces", probe::user_namespaces()),
        "may be made by this user",
        ["machines can be locked away without root", "locking machines away needs root"],
        "as root: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000",
    )
}

fn userfaultfd() -> Finding {
    let name = "userfaultfd";
    let (status, found, advice) = match probe::userfaultfd() {
        Ok(Userfaultfd::Full) => (Status::Ok, "available".to_owned(), ""),
        Ok(Userfaultfd::Device) => (Status::Ok, "available by /dev/userfaultfd".to_owned(), ""),
        Ok(Userfaultfd::UserOnly) => (
            Status::Limited,
            "only for faults in user mode".to_owned(),
            "as root: sysctl vm.unprivileged_userfaultfd=1",
        ),
        Err(error) => (
            Status::Limited,
            error.to_string(),
            "take a kernel with CONFIG_USERFAULTFD, and allow the call in the container's filter",
        ),
    };
    let meaning = "snapshots can be loaded page by page, by a program of one's own";
    Finding { name, status, found, meaning, advice }
}

fn cgroups() -> Finding {
    let name = "cgroups v2";
    let meaning = "machines can be held to shares of memory, CPU and I/O";
    match probe::cgroup2_controllers() {
        Ok(list) if !list.is_empty() => {
            Finding { name, status: Status::Ok, found: list.join(" "), meaning, advice: "" }
        }
        Ok(_) => Finding {
            name,
            status: Status::Limited,
            found: "mounted, with no controllers".to_owned(),
            meaning,
            advice: "ask whoever runs this container to delegate controllers to it",
        },
        Err(error) => Finding {
            name,
            status: Status::Limited,
            found: format!("/sys/fs/cgroup/cgroup.controllers: {error}"),
            meaning,
            advice: "boot with systemd.unified_cgroup_hierarchy=1",
        },
    }
}

/// (program, what it is for, package)
type Program = (&'static str, &'static str, &'static str);

const PROGRAMS: [Program; 4] = [
    ("apt-get", "`kernel pull` and `kernel build` take their packages with it", ""),
    ("mke2fs", "makes disk images", "apt-get install e2fsprogs"),
    ("make", "`kernel build` compiles with it", KERNEL_BUILD_PACKAGES),
    ("gcc", "`kernel build` compiles with it", KERNEL_BUILD_PACKAGES),
];

const KERNEL_BUILD_PACKAGES: &str =
    "apt-get install build-essential flex bison bc libelf-dev libssl-dev";

fn program(&(name, meaning, install): &Program) -> Finding {
    match probe::program(name) {
        Some(path) => {
            let found = path.display().to_string();
            Finding { name, status: Status::Ok, found, meaning, advice: "" }
        }
        None => Finding {
            name,
            status: Status::Missing,
            found: "not installed".to_owned(),
            meaning,
            advice: if install.is_empty() {
                "this is not Debian: see docs/kernels.md"
            } else {
                install
            },
        },
    }
}

/// A finding that is good or limited. `meanings` are for the one and for the other.
fn from_result(
    (name, result): (&'static str, io::Result<()>),
    good: &str,
    meanings: [&'static str; 2],
    advice: &'static str,
) -> Finding {
    match result {
        Ok(()) => Finding {
            name,
            status: Status::Ok,
            found: good.to_owned(),
            meaning: meanings[0],
            advice: "",
        },
        Err(error) => {
            let found = error.to_string();
            Finding { name, status: Status::Limited, found, meaning: meanings[1], advice }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_what_it_means_and_what_to_do() {
        for finding in examine() {
            assert!(!finding.found.is_empty() && !finding.meaning.is_empty(), "{finding:?}");
            assert_eq!(finding.status == Status::Ok, finding.advice.is_empty(), "{finding:?}");
        }
    }
}
