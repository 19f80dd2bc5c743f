//! A short run, and what the parts promise.

use softcpu::JitOptions;

use crate::{Oracle, Verdict, case::Fix, generate};

const CASES: u64 = 20_000;

#[test]
fn interpreter_translator_and_host_agree() {
    let mut oracle = Oracle::new(None).expect("an oracle");
    check(&mut oracle);
    let every_block = JitOptions { threshold: 0, ..JitOptions::default() };
    oracle.set_jit(Some(every_block)).expect("another CPU");
    check(&mut oracle);
}

fn check(oracle: &mut Oracle) {
    let mut skipped = 0;
    for number in 0..CASES {
        match oracle.check(1, number).expect("both sides run") {
            Verdict::Same(_) => {}
            Verdict::Skipped => skipped += 1,
            Verdict::Different(report) => panic!("{report}"),
        }
    }
    assert!(skipped < CASES / 100, "{skipped} cases skipped");
}

#[test]
fn a_seed_gives_the_same_cases() {
    let listing = |seed| (0..50).map(|n| generate::case(seed, n).listing()).collect::<String>();
    assert_eq!(listing(3), listing(3));
    assert_ne!(listing(3), listing(4));
}

#[test]
fn displacements_lead_to_their_targets() {
    for number in 0..1000 {
        let case = generate::case(5, number);
        let code = case.code();
        let mut end = 0;
        for unit in &case.units {
            let begin = end;
            end += unit.bytes.len();
            if let Fix::Rip { at, target } = unit.fix {
                let displacement: [u8; 4] = code[begin + at..][..4].try_into().expect("4 bytes");
                let next = case.start + end as u64;
                assert_eq!(
                    next.wrapping_add_signed(i32::from_le_bytes(displacement).into()),
                    target
                );
            }
        }
    }
}
