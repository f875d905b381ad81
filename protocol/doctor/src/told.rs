//! What systemd says of a unit, without what may be secret in it.

const MASK: &str = "[REDACTED]";

/// A status without the unit's processes: their command lines hold what tasks were given.
pub(crate) fn without_processes(status: &str) -> String {
    status.split_inclusive('\n').take_while(|line| !line.trim_start().starts_with("CGroup:")).collect()
}

/// A unit's files without the values of its environment and its credentials, those in comments neither.
pub(crate) fn without_values(files: &str) -> String {
    let mut masked = String::with_capacity(files.len());
    let mut lines = files.lines();
    while let Some(line) = lines.next() {
        let Some((key, value)) = secret_setting(line) else {
            masked.push_str(line);
            masked.push('\n');
            continue;
        };
        let mut value = value.to_owned();
        while value.ends_with('\\') {
            value.pop();
            // Comments may stand between the lines of one value.
            let Some(more) = lines.find(|line| !line.trim_start().starts_with(['#', ';'])) else { break };
            value.push(' ');
            value.push_str(more.trim_end());
        }
        masked.push_str(key);
        masked.push('=');
        masked.push_str(&if key.ends_with("Environment") { names(&value) } else { id(&value) });
        masked.push('\n');
    }
    masked
}

/// The key, as it is written, and the value of a line whose value may be a secret.
fn secret_setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let name = key.trim_matches(|c: char| c.is_whitespace() || c == '#' || c == ';');
    let is_secret = name == "Environment" || name.starts_with("SetCredential");
    is_secret.then(|| (key.trim_end(), value.trim()))
}

/// The names of variables.
fn names(value: &str) -> String {
    let name = |word: &String| {
        let name = word.split_once('=').map(|(name, _)| name);
        let is_name =
            |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        name.filter(is_name).map_or_else(|| MASK.to_owned(), |name| format!("{name}={MASK}"))
    };
    words(value).iter().map(name).collect::<Vec<_>>().join(" ")
}

/// The name of a credential.
fn id(value: &str) -> String {
    value.split_once(':').map_or_else(|| MASK.to_owned(), |(id, _)| format!("{id}:{MASK}"))
}

/// The words of a value, as systemd parts them: quotes hold them together.
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            _ if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote.is_none() && c.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_no_command_line_of_a_task() {
        let status = "● stella-agent.service - Agent\n     Active: active (running)\n   Main PID: 7 (stella-agent)\n     CGroup: /system.slice/stella-agent.service\n             ├─7 /usr/bin/stella-agent run\n             └─9 sh -c deploy --password hunter22\n";
        let told = without_processes(status);
        assert!(told.ends_with("Main PID: 7 (stella-agent)\n") && told.starts_with('●'), "{told}");
        assert_eq!(without_processes("one\ntwo"), "one\ntwo");
    }

    #[test]
    fn a_unit_has_no_value_of_a_variable_and_no_credential() {
        let files = "# /etc/systemd/system/x.service\n[Service]\nExecStart=/usr/bin/x\n\
            Environment=A=hunter1 \"B=hunter2 and hunter3\" 'C=it is \\'hunter4' \\\n  # D=hunter5\n  E=hunter6 \\\n\tF=hunter7\n\
            \x20Environment = G=hunter8=H=hunter9\n#Environment=I=hunter10\nEnvironment=\nEnvironment=\"J=hunter11\nEnvironment=hunter12\n\
            EnvironmentFile=/etc/default/x\nSetCredential=key:hunter13:hunter14\nSetCredentialEncrypted=other: \\\n  hunter15 \\\n  hunter16\n\
            SetCredential=hunter17\nUser=x\n# end\n";
        let masked = without_values(files);
        assert!(!masked.contains("hunter"), "{masked}");
        let expected = "# /etc/systemd/system/x.service\n[Service]\nExecStart=/usr/bin/x\n\
            Environment=A=[REDACTED] B=[REDACTED] C=[REDACTED] E=[REDACTED] F=[REDACTED]\n\
            \x20Environment=G=[REDACTED]\n#Environment=I=[REDACTED]\nEnvironment=\nEnvironment=J=[REDACTED]\nEnvironment=[REDACTED]\n\
            EnvironmentFile=/etc/default/x\nSetCredential=key:[REDACTED]\nSetCredentialEncrypted=other:[REDACTED]\n\
            SetCredential=[REDACTED]\nUser=x\n# end\n";
        assert_eq!(masked, expected);
    }
}
