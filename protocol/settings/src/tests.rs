use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;

const fn key(name: &'static str, default: &'static str) -> Key {
    Key { name, default, unit: "", about: "", reloads: false }
}

const KEYS: &[Key] = &[
    key("state_dir", "`/var/lib/x`"),
    key("api.listen", "`0.0.0.0:1`"),
    key("api.burst", "100"),
    key("api.names", "[]"),
    key("api.token", "none"),
    key("channels.*", "none"),
];

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    state_dir: Option<String>,
    api: Api,
    channels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Api {
    listen: Option<SocketAddr>,
    burst: u32,
    names: Vec<String>,
    token: Option<String>,
}

fn layers(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Layers, Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("x.conf.d")).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let mut layers = Layers::new(KEYS);
    layers.add_files(&folder.path().join("x.toml"), true)?;
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    layers.add_environment("X__", variables)?;
    Ok(layers)
}

#[test]
fn later_layers_win_and_every_value_says_where_it_came_from() {
    let files = [
        ("x.toml", "state_dir = \"/a\"\n[api]\nburst = 1\nnames = [\"one\"]\n[channels]\nops = \"x\""),
        ("x.conf.d/20-late.toml", "[api]\nburst = 3"),
        ("x.conf.d/10-early.toml", "[api]\nburst = 2\ntoken = \"hush\""),
        ("x.conf.d/ignored.txt", "no TOML"),
    ];
    let variables = [("X__API__NAMES", "a, b"), ("X__API__LISTEN", "127.0.0.1:7"), ("OTHER", "x")];
    let layers = layers(&files, &variables).unwrap();
    let config: Config = layers.read().unwrap();
    assert_eq!((config.api.burst, &config.api.names[..]), (3, &["a".to_owned(), "b".to_owned()][..]));
    let shown = layers.effective(&serde_json::to_value(&config).unwrap());
    let of = |key: &str| shown.iter().find(|it| it.key == key).unwrap();
    assert!(of("state_dir").origin.ends_with("/x.toml"));
    assert!(of("api.burst").origin.ends_with("20-late.toml"));
    assert_eq!(of("api.listen").origin, "environment X__API__LISTEN");
    assert_eq!(of("api.token").value, json!("***"));
    assert_eq!((&of("channels.ops").value, shown.len()), (&json!("x"), 6));
    assert!(!serde_json::to_string(&shown).unwrap().contains("hush"));
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    for (text, name, meant) in [
        ("[api]\nlisen = 1", "api.lisen", Some("api.listen")),
        ("[apl]\nlisten = 1", "apl.listen", Some("api.listen")),
        ("burst = 1", "burst", None),
        ("state_dri = \"x\"", "state_dri", Some("state_dir")),
        ("[zzz]\nqqq = 1", "zzz.qqq", None),
        ("[api.names]\nx = 1", "", None),
    ] {
        let outcome = layers(&[("x.toml", text)], &[]).and_then(|layers| layers.read::<Config>());
        let error = outcome.unwrap_err();
        if let Error::Unknown { name: found, meant: suggested, origin } = error {
            assert_eq!((found.as_str(), suggested.as_deref()), (name, meant));
            assert!(origin.ends_with("x.toml"));
        } else {
            // A section where a list has to be.
            assert!(name.is_empty() && error.to_string().contains("api.names"), "{error}");
        }
    }
    let error = layers(&[("x.toml", "")], &[("X__API__BRUST", "1")]).unwrap_err().to_string();
    assert_eq!(error, "environment X__API__BRUST: there is no key api.brust; did you mean api.burst?");
}

#[test]
fn a_wrong_value_is_refused_with_its_key_and_where_it_was_found() {
    let error = layers(&[("x.toml", "[api]\nburst = \"many\"")], &[]).unwrap().read::<Config>().unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("api.burst is not understood") && error.ends_with("x.toml)"), "{error}");
    let error =
        layers(&[("x.toml", "")], &[("X__API__LISTEN", "here")]).unwrap().read::<Config>().unwrap_err();
    assert!(error.to_string().contains("(environment X__API__LISTEN)"), "{error}");
    assert!(matches!(layers(&[("x.toml", "[api")], &[]), Err(Error::Syntax { .. })));
    let large = " ".repeat(300_000);
    assert!(matches!(layers(&[("x.toml", &large)], &[]), Err(Error::Read { .. })));
}

#[test]
fn no_message_repeats_what_a_file_holds() {
    for (text, line) in [
        ("# ü\n[api]\ntoken = \"hunter22\n", "line 3: "),
        ("[api]\ntoken = hunter22\n", "line 2: "),
        ("[api]\ntoken = \"x\"\ntoken = \"hunter22\"", "line 3: "),
        ("hunter22", "line 1: "),
        ("token = ü", "line 1: "),
    ] {
        let error = layers(&[("x.toml", text)], &[]).unwrap_err().to_string();
        assert!(error.contains(line) && !error.contains("hunter22"), "{error}");
        assert!(!error.contains('\n') && error.len() > error.find(line).unwrap() + line.len() + 5, "{error}");
    }
    for value in ["\"hunter22\"", "'it \"is\" hunter22'", "'\\\" hunter22'"] {
        let text = format!("[api]\nburst = {value}\n");
        let error = layers(&[("x.toml", &text)], &[]).unwrap().read::<Config>().unwrap_err().to_string();
        assert!(
            error.starts_with("api.burst is not understood: invalid type: a string, expected u32 ("),
            "{error}"
        );
    }
}

#[test]
fn the_page_gets_its_table() {
    let page = "before\n<!-- keys: x -->\nold\n<!-- end -->\nafter";
    let with = with_reference(page, "x", &KEYS[..1]).unwrap();
    assert!(
        with.starts_with("before\n<!-- keys: x -->\n| key |") && with.ends_with("|\n<!-- end -->\nafter")
    );
    assert_eq!(with_reference(&with, "x", &KEYS[..1]).unwrap(), with);
    assert_eq!(with_reference(page, "y", KEYS), None);
}

#[test]
fn of_an_address_is_shown_where_it_leads_and_not_what_lets_in() {
    for (address, shown) in [
        ("/var/lib/stella", "/var/lib/stella"),
        ("stella.example.com:7443", "stella.example.com:7443"),
        ("https://x.example", "https://x.example"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ("nats://me:hush@bus.example:4222", "nats://***@bus.example:4222"),
        ("https://x/services/T0/x1Y2z3A4b5C6d7E8", "https://x/services/T0/***"),
        ("https://x?key=hush&more", "https://x?key=***&***"),
        ("https://x/a#hush", "https://x/a#***"),
        ("https://x/?a=b=c", "https://x/?a=***"),
    ] {
        assert_eq!(masked_address(address), shown);
    }
}

#[test]
fn a_pipe_in_the_folder_is_an_error_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (file, pipe) = (folder.path().join("x.toml"), folder.path().join("x.conf.d/pipe.toml"));
    fs::create_dir(folder.path().join("x.conf.d")).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = Layers::new(KEYS).add_files(&file, false).unwrap_err();
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(refused.to_string().contains("pipe.toml") && source == "it is no file", "{refused}: {source}");
}
