//! The two looks of a line.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::redact;

/// The fields that stand at the top of a JSON line; every other one is in `context`.
const TOP_FIELDS: [&str; 4] = ["traceId", "spanId", "tenantId", "correlationId"];

/// Collects fields as JSON values.
#[derive(Default)]
struct Collect(Map<String, Value>);

impl Visit for Collect {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        self.0.insert(field.name().into(), text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
}

/// Keeps a span's fields as JSON, so that both looks can read them.
pub(crate) struct JsonFields;

impl<'w> FormatFields<'w> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut collect = Collect::default();
        fields.record(&mut collect);
        write!(writer, "{}", Value::Object(collect.0))
    }

    fn add_fields(
        &self,
        current: &'w mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        let mut all = serde_json::from_str::<Map<String, Value>>(&current.fields).unwrap_or_default();
        let mut collect = Collect::default();
        fields.record(&mut collect);
        all.append(&mut collect.0);
        current.fields = Value::Object(all).to_string();
        Ok(())
    }
}

/// The event's own fields over those of the spans around it, outermost first, masked.
fn fields_of<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let mut fields = Map::new();
    for span in context.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
        let extensions = span.extensions();
        if let Some(formatted) = extensions.get::<FormattedFields<N>>() {
            fields.append(&mut serde_json::from_str(&formatted.fields).unwrap_or_default());
        }
    }
    let mut own = Collect::default();
    event.record(&mut own);
    fields.append(&mut own.0);
    redact::redact_object(&mut fields);
    fields
}

fn take_message(fields: &mut Map<String, Value>) -> String {
    match fields.remove("message") {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn now() -> impl fmt::Display {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
}

/// One JSON object a line.
pub(crate) struct Json {
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    /// Whether systemd's journal reads along: it takes the priority from before the line, and what stays is the line.
    pub(crate) to_journal: bool,
    /// Whose lines they are that name no tenant.
    pub(crate) tenant: &'static OnceLock<String>,
}

/// How syslog, and systemd's journal, call a level.
pub(crate) const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = fields_of(context, event);
        let message = take_message(&mut fields);
        if let Some(tenant) = self.tenant.get()
            && !fields.contains_key("tenantId")
        {
            fields.insert("tenantId".into(), tenant.as_str().into());
        }
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        if self.to_journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        write!(
            writer,
            r#"{{"timestamp":"{}","level":"{level}","message":{}"#,
            now(),
            Value::String(message)
        )?;
        write!(writer, r#","service":"{}","version":"{}""#, self.service, self.version)?;
        for name in TOP_FIELDS {
            if let Some(value) = fields.remove(name) {
                write!(writer, r#","{name}":{value}"#)?;
            }
        }
        let sorted: BTreeMap<String, Value> = fields.into_iter().collect();
        if !sorted.is_empty() {
            let context = serde_json::to_string(&sorted).map_err(|_| fmt::Error)?;
            write!(writer, r#","context":{context}"#)?;
        }
        writeln!(writer, "}}")
    }
}

/// A short line for a terminal. What came from outside can neither begin another line nor say anything to the terminal.
pub(crate) struct Human;

/// A text with what is not printed written as an escape: control characters, separators of lines, and what turns the direction of writing.
struct Printable<'t>(&'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_unprintable) {
            let (shown, from) = rest.split_at(at);
            f.write_str(shown)?;
            let mut characters = from.chars();
            for character in characters.by_ref().take(1) {
                write!(f, "{}", character.escape_default())?;
            }
            rest = characters.as_str();
        }
        f.write_str(rest)
    }
}

fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = fields_of(context, event);
        let message = take_message(&mut fields);
        write!(
            writer,
            "{} {:>5} {}",
            jiff::Timestamp::now().strftime("%H:%M:%S%.3f"),
            event.metadata().level(),
            Printable(&message)
        )?;
        for (key, value) in &fields {
            if let Value::String(text) = value {
                write!(writer, " {key}={}", Printable(text))?;
            } else {
                // JSON, in which U+2028 and its like stand as they are.
                write!(writer, " {key}={}", Printable(&value.to_string()))?;
            }
        }
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(to_journal: bool, log: impl FnOnce()) -> String {
        static NONE: OnceLock<String> = OnceLock::new();
        written_by(&NONE, to_journal, log)
    }

    fn written_by(tenant: &'static OnceLock<String>, to_journal: bool, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Json { service: "stella-orchestrator", version: "1.2.3", to_journal, tenant })
            .fmt_fields(JsonFields)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn human(log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Human)
            .fmt_fields(JsonFields)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_said_to_a_person_is_one_line_and_tells_the_terminal_nothing() {
        let forged = "gone\n12:00:00.000  INFO all is well\u{1b}[2J";
        let text = human(|| tracing::warn!(reason = forged, "Agent {forged}"));
        assert_eq!(text.lines().count(), 1, "{text:?}");
        let escaped = r"gone\n12:00:00.000  INFO all is well\u{1b}[2J";
        assert!(text.ends_with(&format!("Agent {escaped} reason={escaped}\n")), "{text:?}");
    }

    fn lines(log: impl FnOnce()) -> Vec<Value> {
        written(false, log).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn the_journal_is_told_the_priority_before_the_line_and_nobody_else_is() {
        let log = || {
            tracing::error!("lost");
            tracing::warn!("late");
            tracing::info!("<3> said somebody");
        };
        let text = written(true, log);
        let told: Vec<_> = text.lines().map(|line| line.split_at(3)).collect();
        assert_eq!(told.iter().map(|(priority, _)| *priority).collect::<Vec<_>>(), ["<3>", "<4>", "<6>"]);
        for (_, line) in told {
            serde_json::from_str::<Value>(line).unwrap();
        }
        assert!(written(false, log).lines().all(|line| line.starts_with('{')));
    }

    #[test]
    fn a_line_has_the_fields_of_the_format() {
        let lines = lines(|| {
            let span =
                tracing::info_span!("request", correlationId = "corr", tenantId = tracing::field::Empty);
            span.record("tenantId", "tenant");
            let _entered = span.enter();
            tracing::warn!(traceId = "abc", releaseId = "r1", count = 3, "Deployment \"started\"\nnow");
        });
        let line = &lines[0];
        assert_eq!(line["level"], "warn");
        assert_eq!(line["message"], "Deployment \"started\"\nnow");
        assert_eq!(line["service"], "stella-orchestrator");
        assert_eq!(line["version"], "1.2.3");
        assert_eq!(
            (&line["traceId"], &line["tenantId"], &line["correlationId"]),
            (&"abc".into(), &"tenant".into(), &"corr".into())
        );
        assert_eq!(line["context"], serde_json::json!({"releaseId": "r1", "count": 3}));
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
    }

    #[test]
    fn the_lines_of_a_process_of_one_tenant_have_it_unless_they_have_another() {
        static ACME: OnceLock<String> = OnceLock::new();
        ACME.get_or_init(|| "acme".to_owned());
        let text = written_by(&ACME, false, || {
            tracing::info!("of nobody");
            tracing::info!(tenantId = "globex", "of another");
        });
        let tenants: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["tenantId"].clone())
            .collect();
        assert_eq!(tenants, ["acme", "globex"]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None, ..proptest::prelude::ProptestConfig::with_cases(500)
        })]

        /// Whatever comes from outside, a line is one JSON object with the fields of the format, and says what was logged.
        #[test]
        fn hostile_texts_stay_within_their_line(
            message in "(\\PC|[\\x00-\\x1f\\x7f\\u{85}\\u{2028}\"\\\\{}]){0,40}",
            field in "(\\PC|[\\x00-\\x1f\\x7f\\u{85}\\u{2028}\"\\\\{}]){0,40}",
        ) {
            let log = || {
                let span = tracing::info_span!("request", correlationId = field.as_str(), around = ?field);
                let _entered = span.enter();
                tracing::error!(traceId = message.as_str(), field = field.as_str(), shown = %field, "{message}");
            };
            let human = human(log);
            let line = human.strip_suffix('\n').unwrap();
            proptest::prop_assert!(!line.contains(is_unprintable), "{:?}", line);
            let lines = lines(log);
            proptest::prop_assert_eq!(lines.len(), 1);
            let line = lines[0].as_object().unwrap();
            proptest::prop_assert_eq!(&line["level"], "error");
            proptest::prop_assert_eq!(&line["message"], &crate::redact_text(&message));
            proptest::prop_assert_eq!(&line["correlationId"], &crate::redact_text(&field));
            proptest::prop_assert_eq!(&line["context"]["shown"], &crate::redact_text(&field));
            let names =
                ["timestamp", "level", "message", "service", "version", "traceId", "correlationId", "context"];
            let is_known = |key: &String| names.contains(&key.as_str());
            proptest::prop_assert!(line.keys().all(is_known));
        }
    }

    #[test]
    fn secrets_never_reach_a_line() {
        let lines = lines(|| tracing::info!(token = "hunter2", url = "http://h/?password=hunter2", "login"));
        assert!(!lines[0].to_string().contains("hunter2"), "{}", lines[0]);
    }
}
