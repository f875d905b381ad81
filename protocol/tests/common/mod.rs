//! What the tests of this crate share: fixed ids, a seeded source of choices, and hex dumps.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod world;

use stella_protocol::id::{Attempt, AttemptKey, Incarnation, Position, TaskId};
use stella_protocol::message::{Hello, JournalMark, Resources};
use uuid::Uuid;

/// SplitMix64: small, seeded, and the same on every machine.
#[derive(Debug)]
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }
}

/// An id whose hex digits are easy to find in a dump.
pub(crate) fn uuid(digit: u8) -> Uuid {
    Uuid::from_bytes([digit; 16])
}

pub(crate) fn key(digit: u8, attempt: u32) -> AttemptKey {
    AttemptKey { task: TaskId(uuid(digit)), attempt: Attempt(attempt) }
}

pub(crate) fn mark(digit: u8, position: u64) -> JournalMark {
    JournalMark { incarnation: Incarnation(uuid(digit)), position: Position(position) }
}

pub(crate) fn resources() -> Resources {
    Resources {
        load_1m: 0.5,
        memory_available_bytes: 3_000_000_000,
        memory_total_bytes: 4_000_000_000,
        disk_available_bytes: 50_000_000_000,
        tasks_running: 1,
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        agent_version: "0.1.0".into(),
        capabilities: 0b1111,
        journal: mark(0xa1, 7),
        control_plane: None,
        open: Vec::new(),
        resources: resources(),
    }
}

/// Sixteen bytes a line: offset, hex, and what is readable in it.
pub(crate) fn dump(bytes: &[u8]) -> String {
    let line = |(index, row): (usize, &[u8])| {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            row.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect();
        format!("{:04x}  {:<47}  |{text}|\n", index * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

/// The bytes of a [`dump`]; the readable column is for people only.
pub(crate) fn undump(text: &str) -> Vec<u8> {
    let digits = text.lines().flat_map(|line| line[6..53].split_whitespace());
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("a dump has two hex digits a byte")).collect()
}
