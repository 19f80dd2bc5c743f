//! The same Debian user land at the same work in `sparkler-vmm` on the software CPU and in QEMU's
//! microvm under TCG, one after the other: `cargo xtask bench cpu`.
//!
//! Time is the host's, from line to line of the console, as a guest's clock may be what is wrong;
//! beside it stands the CPU time of the process, which other load on the host changes less.

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use support::userland::{self, FIRST_LINE, UserLand};
use support::{Guest, Process};

const NAME: &str = "bench_cpu";
/// Runs of each; the median counts.
const RUNS: usize = 3;
/// How long there may be no line on the console.
const PATIENCE: Duration = Duration::from_secs(300);
/// Of `/proc/PID/stat`, on every Linux for x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

/// What begins a line that tells of the work's progress.
const MARK: &str = "-----";

/// Makes what the work is done on. Not counted.
const PREPARATION: &str = r#"
head -c 67108864 <(while cat /usr/lib/x86_64-linux-gnu/lib*.so* /usr/lib/gcc/x86_64-linux-gnu/12/cc1; do :; done) > data
head -c 8388608 data > part
for ((i = 0; i < 125; i++)); do
    echo "struct s$i { int a; double b; struct s$i *next; };"
    echo "static int f$i(struct s$i *s, int x) {"
    echo "    int sum = $i;"
    echo "    for (; s; s = s->next) { sum += s->a * x + (int)(s->b / (x + $i)); }"
    echo "    for (int i = 0; i < x; i++) { sum ^= (sum << 3) + i % ($i + 2); }"
    echo "    return sum;"
    echo "}"
    echo "int g$i(int x) { struct s$i s = { x, x * $i.5, 0 }; return f$i(&s, x) + f$i(&s, 3); }"
done > program.c
cat > loop.py <<'P'
total, words = 0, {}
for i in range(1000000):
    total += i * i % 7
for i in range(150000):
    words[str(i)] = i
print(total, sum(words[str(i)] for i in range(0, 150000, 7)))
P
for ((i = 0; i < 4000; i++)); do echo "insert into t values ($i, $((i * 7919 % 10007)), 'row $i');"; done > rows
(echo "create table t (a integer primary key, b integer, c text); create index i on t (b); begin;"
 cat rows
 echo "commit;"
 echo "with recursive n(x) as (select 1 union all select x + 1 from n where x < 60000)"
 echo "insert into t select x + 10000, x * 31 % 9973, 'number ' || x from n;"
 echo "select count(*), sum(x.a * y.b) from t x join t y on x.b = y.a;"
 echo "select c, count(*) from t group by b % 100 order by 2 desc, 1 limit 5;") > queries
"#;

/// One piece of work: its name, and what the shell runs.
type Work = (&'static str, &'static str);

/// On one processor.
const ALONE: [Work; 14] = [
    ("shell loop, fork and exec of 300", "for ((i = 0; i < 300; i++)); do /bin/true; done"),
    (
        "shell loop, builtins only",
        "for ((i = s = 0; i < 100000; i++)); do ((s += i % 7)); done; echo $s",
    ),
    ("sha256sum, 64 MiB", "sha256sum data"),
    ("gzip, 8 MiB", "gzip -c part | cksum"),
    ("zstd -3, 64 MiB", "zstd -3 -q -T1 -c data | cksum"),
    ("sqlite3, inserts and queries", "rm -f base; sqlite3 base < queries"),
    ("python3, start, ten times", "for i in 1 2 3 4 5 6 7 8 9 10; do python3 -c 'print(1)'; done"),
    ("python3, loops and a table", "python3 loop.py"),
    ("gcc -O2, 1,000 lines", "gcc -O2 -c program.c && size program.o"),
    ("openssl sha256, 64 MiB", "openssl dgst -sha256 data"),
    (
        "openssl aes-128-cbc, 64 MiB",
        "openssl enc -aes-128-cbc -K 00112233445566778899aabbccddeeff \
         -iv 000102030405060708090a0b0c0d0e0f -in data | tail -c 16 | cksum",
    ),
    (
        "perl, hashes",
        "perl -e 'my %h; $h{$_ * 7919 % 100003} = \"x$_\" for 1..200000; my $s = 0; \
         $s += length $h{$_} for keys %h; print \"$s\\n\"'",
    ),
    (
        "perl, regular expressions",
        "perl -ne '$n++ while /([a-z]+)_\\1?[a-z]+/g; END { print $n }' part",
    ),
    (
        "sort, 200,000 numbers",
        "seq 1 200000 | awk '{ print $1 * 7919 % 200003 }' | sort -n | cksum",
    ),
];

/// Two at once, on one processor and on two.
const TOGETHER: [Work; 3] = [
    ("sha256sum", "sha256sum data & sha256sum data; wait $!"),
    ("python3, loops and a table", "python3 loop.py & python3 loop.py; wait $!"),
    (
        "shell loop, fork and exec of 300",
        "f() { for ((i = 0; i < 300; i++)); do /bin/true; done; }; f & f; wait $!",
    ),
];

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// On the clock.
    seconds: f64,
    /// Of the host's processors.
    cpu_seconds: f64,
}

#[test]
#[ignore = "a benchmark"]
fn bench_cpu() {
    if !support::has_programs(NAME, &[("qemu-system-x86_64", "qemu-system-x86")]) {
        return;
    }
    let Some((cache, kernel)) = support::kernel(NAME) else { return };
    let Some(land) = UserLand::new(NAME, &cache, &kernel) else { return };
    println!("kernel {} ({:?}), {RUNS} runs\n", kernel.version, kernel.source);
    alone(&land);
    together(&land);
}

/// Prints the table for one processor. Its first row is the boot.
fn alone(land: &UserLand) {
    let [ours, theirs] = in_alternation(land, &ALONE, 1);
    println!("| work | sparkler, software CPU | QEMU microvm, TCG | times as fast | by CPU time |");
    println!("| --- | --- | --- | --- | --- |");
    let names = ["start to the first line of user space"].into_iter().chain(ALONE.map(|w| w.0));
    let (mut clock, mut cpu) = (Vec::new(), Vec::new());
    for (at, name) in names.enumerate() {
        let (our, their) = (median(&ours, at), median(&theirs, at));
        clock.push(their.seconds / our.seconds);
        cpu.push(their.cpu_seconds / our.cpu_seconds);
        println!(
            "| {name} | {:.2} s | {:.2} s | {:.2} | {:.2} |",
            our.seconds, their.seconds, clock[at], cpu[at]
        );
    }
    println!("| geometric mean | | | {:.2} | {:.2} |\n", mean(&clock), mean(&cpu));
}

/// Prints what a second processor brings.
fn together(land: &UserLand) {
    let [our_one, their_one] = in_alternation(land, &TOGETHER, 1);
    let [our_two, their_two] = in_alternation(land, &TOGETHER, 2);
    println!("| twice at once | sparkler, 1 and 2 vCPUs | times as fast | QEMU | times as fast |");
    println!("| --- | --- | --- | --- | --- |");
    for (at, (name, _)) in TOGETHER.iter().enumerate() {
        // The boot comes first.
        let [a, b, c, d] =
            [&our_one, &our_two, &their_one, &their_two].map(|runs| median(runs, at + 1).seconds);
        println!(
            "| {name} | {a:.2} s, {b:.2} s | {:.2} | {c:.2} s, {d:.2} s | {:.2} |",
            a / b,
            c / d
        );
    }
}

/// Runs the work in both machines in turns: ours, and QEMU's.
fn in_alternation(land: &UserLand, works: &[Work], vcpus: u8) -> [Vec<Vec<Cost>>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = land.guest(&userland::script(folder.path(), &script(works)));
    guest.vcpus = vcpus;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (our, their) =
            (measure(&mut our_command(&guest, folder.path())), measure(&mut qemu(&guest)));
        assert_eq!(our.results, their.results, "the machines computed different things");
        assert_eq!(our.costs.len(), works.len() + 1, "{:?}", our.results);
        ours.push(our.costs);
        theirs.push(their.costs);
    }
    [ours, theirs]
}

/// The script: each piece between two marks, what it printed between them.
fn script(works: &[Work]) -> String {
    let mut text = format!("mkdir -p /dev/shm\n{PREPARATION}\n");
    for (_, command) in works {
        text += &format!(
            "work() {{\n{command}\n}}\necho '{MARK} begin'\nwork < /dev/null\necho \"{MARK} end $?\"\n"
        );
    }
    text + &format!("echo '{MARK} done'\n")
}

fn our_command(guest: &Guest, folder: &Path) -> Command {
    let path = folder.join("vm.json");
    File::create(&path).unwrap().write_all(guest.config().to_string().as_bytes()).unwrap();
    let mut command = Command::new(support::vmm());
    command.args(["--no-api", "--cpu", "soft", "--level", "Error", "--config-file"]).arg(path);
    command
}

fn qemu(guest: &Guest) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,acpi=off", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio"])
        .args(["-m", &guest.memory_mib.to_string(), "-smp", &guest.vcpus.to_string()])
        .args(["-append", &guest.command_line(), "-kernel"])
        .arg(&guest.kernel.vmlinux);
    if let Some(initrd) = &guest.initrd {
        command.arg("-initrd").arg(initrd);
    }
    for (at, (path, _)) in guest.disks.iter().enumerate() {
        let path = path.display();
        command
            .args(["-drive", &format!("file={path},if=none,id=d{at},format=raw,readonly=on")])
            .args(["-device", &format!("virtio-blk-device,drive=d{at}")]);
    }
    command
}

/// What came out of a machine.
#[derive(Default)]
struct Run {
    /// Of the boot, and of each piece of work.
    costs: Vec<Cost>,
    /// What the work printed.
    results: Vec<String>,
}

/// Boots the user land in `vmm` and follows its console until the script is done.
fn measure(vmm: &mut Command) -> Run {
    let start = Instant::now();
    vmm.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = vmm.spawn().unwrap_or_else(|error| panic!("{vmm:?}: {error}"));
    let lines = lines(&mut child);
    let process = Process(child);
    let now = |at: Instant| Cost {
        seconds: (at - start).as_secs_f64(),
        cpu_seconds: cpu_seconds(process.0.id()),
    };
    let (mut run, mut began, mut seen) = (Run::default(), None, Vec::new());
    loop {
        let next = lines.recv_timeout(PATIENCE);
        let (at, line) = next.unwrap_or_else(|_| panic!("{vmm:?} is silent after\n{seen:#?}"));
        match line.strip_prefix(MARK).map(str::trim) {
            Some("begin") => began = Some(now(at)),
            Some("end 0") => {
                let (from, to) = (began.take().expect("begin comes before end"), now(at));
                run.costs.push(Cost {
                    seconds: to.seconds - from.seconds,
                    cpu_seconds: to.cpu_seconds - from.cpu_seconds,
                });
            }
            Some("done") => return run,
            Some(_) if line == FIRST_LINE => run.costs.push(now(at)),
            Some(_) => panic!("{vmm:?}: {line}\n{seen:#?}"),
            None if began.is_some() => run.results.push(line.clone()),
            None => {}
        }
        seen.push(line);
    }
}

/// The lines of the console, each with the time when it ended.
fn lines(child: &mut Child) -> Receiver<(Instant, String)> {
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What a process used of the host's processors: fields 14 and 15 of its `stat`. The second may
/// hold anything, and ends with the last parenthesis.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|field| field.parse::<f64>().expect("a number")).sum::<f64>() / TICKS_PER_SECOND
}

fn median(runs: &[Vec<Cost>], at: usize) -> Cost {
    let middle = |value: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(|run| value(&run[at])).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Cost { seconds: middle(|cost| cost.seconds), cpu_seconds: middle(|cost| cost.cpu_seconds) }
}

/// The geometric mean.
fn mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}
