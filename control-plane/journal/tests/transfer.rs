//! Export and import: the way out of a damaged or outgrown database.

mod common;

use std::path::Path;

use common::{CONFIG, append_bytes, append_one, lead, read_all, record_key, tamper, tenant};
use stella_journal::{
    Coverage, ExportError, ImportError, Journal, OpenError, Problem, SledJournal, Stream, Until, export,
    export_open, import, time_of, verify, version_of,
};
use stella_protocol::id::{Epoch, Position};

fn export_of(dir: &Path, coverage: Coverage) -> String {
    let mut out = Vec::new();
    export(dir, &mut out, coverage, None).expect("the journal can be exported");
    String::from_utf8(out).expect("an export is text")
}

fn import_problem(text: &str) -> (u64, String) {
    let dir = tempfile::tempdir().expect("the disk works");
    let dir = dir.path().join("new");
    let error = import(&mut text.as_bytes(), &dir, Until::End).expect_err("the export is bad");
    let ImportError::Line { line, problem } = error else { panic!("{error:?}") };
    // Whatever was written is not taken for a journal.
    assert!(!matches!(SledJournal::open(&dir, CONFIG), Ok(journal) if !journal.heads().is_empty()));
    (line, problem)
}

#[test]
fn what_was_exported_is_imported_with_the_same_positions_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(&dir.path().join("old"));
    // Bytes that a careless round trip through JSON would change.
    let payloads = [
        br#"{"b": 1,  "a":1.50, "a":2}"#.to_vec(),
        b"null".to_vec(),
        b" {}".to_vec(),
        b"{\n}".to_vec(),
        b"\"text\"".to_vec(),
        vec![0xff, 0],
        Vec::new(),
    ];
    append_bytes(&journal, tenant(1), payloads.to_vec());
    assert_eq!(journal.begin_epoch().unwrap(), Epoch(2));
    append_bytes(&journal, tenant(1), (0..3000_u32).map(|n| format!("[{n:0>500}]").into_bytes()).collect());
    append_one(&journal, Stream::System, &["{\"tenant\":1}"]);
    let streams = [Stream::System, tenant(1)];
    let before = streams.map(|stream| read_all(&journal, stream));
    let (old_name, time) = (journal.incarnation(), journal.last_time());
    drop(journal);

    let text = export_of(&dir.path().join("old"), Coverage::Complete);
    assert!(text.contains(r#""payload":{"b": 1,  "a":1.50, "a":2}"#), "JSON stays readable");
    let new = dir.path().join("new");
    let summary = import(&mut text.as_bytes(), &new, Until::End).unwrap();
    assert_eq!((summary.streams, summary.events, summary.missing.len()), (2, 3008, 0));
    assert!(verify(&new).unwrap().is_whole());
    let journal = SledJournal::open(&new, CONFIG).unwrap();
    assert_ne!(journal.incarnation(), old_name);
    assert_eq!((journal.incarnation(), journal.epoch()), (summary.incarnation, Epoch(2)));
    assert_eq!(journal.last_time(), time);
    assert_eq!(streams.map(|stream| read_all(&journal, stream)), before);
    // Life goes on where it was.
    journal.begin_epoch().unwrap();
    assert_eq!(append_one(&journal, tenant(1), &["more"]).next, Position(3008));
}

#[test]
fn an_open_journal_is_exported_up_to_some_heads_like_a_closed_one() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(&dir.path().join("old"));
    // More than one page, and a record that is larger than what one read gathers.
    append_bytes(&journal, tenant(1), (0..9000_u32).map(|n| format!("[{n}]").into_bytes()).collect());
    append_bytes(&journal, Stream::System, vec![vec![b'1'; 3 << 20]; 6]);
    let heads = journal.heads();
    append_one(&journal, tenant(1), &["\"later\""]);
    append_one(&journal, tenant(2), &["\"later\""]);
    let mut text = Vec::new();
    let summary = export_open(&journal, &heads, &mut text).unwrap();
    assert_eq!((summary.streams, summary.events), (2, 9006));
    let new = dir.path().join("new");
    assert_eq!(import(&mut &text[..], &new, Until::End).unwrap().events, 9006);
    let imported = SledJournal::open(&new, CONFIG).unwrap();
    assert_eq!(read_all(&imported, tenant(1)), read_all(&journal, tenant(1))[..9000]);
    drop((journal, imported));
    assert_eq!(
        export_of(&new, Coverage::Complete).lines().count(),
        text.split_inclusive(|b| *b == b'\n').count()
    );
}

#[test]
fn an_import_can_end_at_a_time_and_takes_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(&dir.path().join("old"));
    let (start, first) = (journal.last_time(), append_one(&journal, tenant(1), &["[1]", "[2]"]));
    append_one(&journal, Stream::System, &["[3]"]);
    append_one(&journal, tenant(1), &["[4]"]);
    append_one(&journal, tenant(2), &["[5]"]);
    drop(journal);
    let text = export_of(&dir.path().join("old"), Coverage::Complete);
    let time = |stream, position| time_of(&mut text.as_bytes(), stream, Position(position)).unwrap();
    assert_eq!(time(tenant(1), 1), Some(start.plus_ms(1)));
    assert_eq!((time(tenant(1), 2), time(tenant(1), 3)), (Some(start.plus_ms(3)), None));

    for (last, events, tenant_events) in [(1, 2, 2), (2, 3, 2), (3, 4, 3), (4, 5, 3), (99, 5, 3)] {
        let new = dir.path().join(format!("until-{last}"));
        let until = Until::Time(start.plus_ms(last));
        let summary = import(&mut text.as_bytes(), &new, until).unwrap();
        assert_eq!((summary.events, summary.left_out), (events, 5 - events));
        assert_eq!(summary.last, start.plus_ms(last.min(4)));
        assert!(verify(&new).unwrap().is_whole());
        let cut = SledJournal::open(&new, CONFIG).unwrap();
        let heads = cut.heads();
        assert_eq!(heads.get(&tenant(1)).map_or(0, |head| head.next.0), tenant_events);
        assert!(tenant_events != first.next.0 || read_all(&cut, tenant(1)).len() == 2);
    }
    // Of nothing no journal is made: a control plane would begin anew with it.
    let none = dir.path().join("none");
    let refused = import(&mut text.as_bytes(), &none, Until::Time(start)).unwrap_err();
    assert!(
        matches!(refused, ImportError::NothingUntil { first } if first == start.plus_ms(1)),
        "{refused:?}"
    );
    assert!(!none.exists(), "something was made");
    // What is left out is checked all the same.
    let changed = text.replace("\"payload\":[5]", "\"payload\":[6]");
    let refused = import(&mut changed.as_bytes(), &dir.path().join("changed"), Until::Time(start));
    assert!(matches!(refused, Err(ImportError::Line { .. })), "{refused:?}");
}

#[test]
fn an_export_names_the_version_that_it_is_given_and_older_ones_name_none() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    drop(lead(&old));
    for version in [None, Some("0.3.1".to_owned())] {
        let mut text = Vec::new();
        export(&old, &mut text, Coverage::Complete, version.clone()).unwrap();
        assert_eq!(version_of(&mut &text[..]).unwrap(), version);
        let new = dir.path().join(format!("new-{version:?}"));
        import(&mut &text[..], &new, Until::End).unwrap();
    }
    version_of(&mut &b"{}\n"[..]).unwrap_err();
}

#[test]
fn an_empty_journal_can_be_moved_too() {
    let dir = tempfile::tempdir().unwrap();
    drop(lead(&dir.path().join("old")));
    let text = export_of(&dir.path().join("old"), Coverage::Complete);
    let new = dir.path().join("new");
    assert_eq!(import(&mut text.as_bytes(), &new, Until::End).unwrap().events, 0);
    assert_eq!(SledJournal::open(&new, CONFIG).unwrap().epoch(), Epoch(1));
}

#[test]
fn an_export_that_was_cut_off_or_changed_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let journal = lead(dir.path());
    append_one(&journal, tenant(1), &["[1]", "[2]"]);
    append_one(&journal, tenant(1), &["[3]"]);
    drop(journal);
    let text = export_of(dir.path(), Coverage::Complete);
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 5);

    assert_eq!(import_problem(&lines[..4].concat()), (5, "the export ends before its trailer".to_owned()));
    assert_eq!(import_problem(&lines[1..].concat()).1, "the header is missing");
    let (line, problem) = import_problem(&[lines[0], lines[1], lines[3], lines[4]].concat());
    assert!(line == 3 && problem.contains("does not follow"), "{problem}");
    assert!(import_problem(&[lines[0], lines[1], lines[2], lines[4]].concat()).1.contains("checksum"));
    let (line, problem) = import_problem(&text.replace("\"payload\":[2]", "\"payload\":[9]"));
    assert!(line == 5 && problem.contains("checksum"), "{problem}");
    assert!(import_problem(&text.replace("\"format\":1", "\"format\":2")).1.contains("format"));
    assert!(import_problem(&format!("{text}{{}}")).1.contains("after the trailer"));
    assert_eq!(import_problem("").0, 1);
    assert_eq!(import_problem("not JSON\n").0, 1);
    assert!(import_problem(&"x".repeat(17 << 20)).1.contains("too long"));
}

#[test]
fn nothing_is_imported_over_something() {
    let dir = tempfile::tempdir().unwrap();
    drop(lead(dir.path()));
    let error = import(&mut "".as_bytes(), dir.path(), Until::End).unwrap_err();
    assert!(matches!(error, ImportError::NotEmpty(_)), "{error:?}");
    let missing = export(&dir.path().join("none"), &mut Vec::new(), Coverage::Complete, None).unwrap_err();
    assert!(matches!(missing, ExportError::Open(OpenError::NotFound(_))), "{missing:?}");
}

#[test]
fn a_salvage_saves_everything_before_the_damage_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    let journal = lead(&old);
    for number in 0..4 {
        append_one(&journal, tenant(1), &[&format!("[{number}]"), "\"x\""]);
        append_one(&journal, tenant(2), &["[]"]);
    }
    let (first, second) = (read_all(&journal, tenant(1)), read_all(&journal, tenant(2)));
    drop(journal);
    let place = record_key(tenant(1), 4);
    tamper(&old, "journal", |key, value| {
        let mut value = value.to_vec();
        let last = value.len() - 1;
        value[last] ^= u8::from(key == place);
        Some(value)
    });
    let error = export(&old, &mut Vec::new(), Coverage::Complete, None).unwrap_err();
    assert!(matches!(error, ExportError::Damaged(_)), "{error:?}");

    let mut text = Vec::new();
    let summary = export(&old, &mut text, Coverage::Salvage, None).unwrap();
    assert_eq!((summary.streams, summary.events), (2, 8));
    let [missing] = &summary.missing[..] else { panic!("{summary:?}") };
    assert_eq!((missing.stream, missing.from, missing.end), (tenant(1), Position(4), Some(Position(8))));
    assert_eq!(missing.why, Problem::Checksum.to_string());

    let new = dir.path().join("new");
    assert_eq!(import(&mut &text[..], &new, Until::End).unwrap().missing, summary.missing);
    let journal = SledJournal::open(&new, CONFIG).unwrap();
    assert_eq!(read_all(&journal, tenant(1)), first[..4]);
    assert_eq!(read_all(&journal, tenant(2)), second);
}

#[test]
fn a_salvage_works_without_a_readable_name_or_head() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    let journal = lead(&old);
    append_one(&journal, tenant(1), &["[1]", "[2]"]);
    let events = read_all(&journal, tenant(1));
    drop(journal);
    tamper(&old, "journal", |key, value| {
        let mut value = value.to_vec();
        value[5] ^= u8::from(key == [0, 0] || key[0] == 1);
        Some(value)
    });
    let mut text = Vec::new();
    let summary = export(&old, &mut text, Coverage::Salvage, None).unwrap();
    assert_eq!((summary.events, summary.damage.len(), summary.missing.len()), (2, 2, 0));
    let new = dir.path().join("new");
    import(&mut &text[..], &new, Until::End).unwrap();
    assert_eq!(read_all(&SledJournal::open(&new, CONFIG).unwrap(), tenant(1)), events);
}
