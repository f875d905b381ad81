//! Why a deployment failed: the last words of the tasks that did.

use std::collections::VecDeque;

use stella_api_types::deployment::DeploymentDetail;
use stella_api_types::paths;
use stella_api_types::task::Task;

use crate::client::Error;
use crate::{Context, print, task};

/// How many failed targets are told of: they mostly fail for the same reason.
const TARGETS_MAX: usize = 3;
/// How many lines of a task's output are shown.
const LINES_MAX: usize = 15;
/// How much of a line is shown, in characters.
const LINE_CHARACTERS_MAX: usize = 400;

/// Shows the last lines of what failed, and how to see all of it. What cannot be read is left out: the deployment has ended already,
/// and this is only its obituary.
pub(crate) async fn explain(context: &Context, deployment: &str) -> Result<(), Error> {
    let path = context.path(paths::DEPLOYMENT, &[deployment])?;
    let Ok(detail) = context.client.get::<DeploymentDetail>(&path).await else { return Ok(()) };
    let failed: Vec<(&str, &str)> = detail
        .targets
        .iter()
        .filter(|it| it.progress == "failed")
        .filter_map(|it| Some((it.target.name.as_str(), it.task.as_deref()?)))
        .collect();
    for (target, id) in failed.iter().take(TARGETS_MAX) {
        let Ok(found) = context.client.get::<Task>(&context.path(paths::TASK, &[id])?).await else {
            continue;
        };
        let (last, left_out) = last_lines(context, id).await.unwrap_or_default();
        let what = if last.is_empty() { "printed nothing" } else { "its last lines" };
        print::line(&format!("\n{target}, step {} ({}): {what}", found.step, task::ended(&found)));
        last.iter().for_each(|line| print::line(&format!("  | {line}")));
        if left_out || last.is_empty() {
            print::line(&format!("  all of it: stella task logs {id}"));
        }
    }
    let more = failed.len().saturating_sub(TARGETS_MAX);
    if more > 0 {
        print::line(&format!("\nand {more} more that failed"));
    }
    if !failed.is_empty() {
        print::line(&format!("\nwhat all tasks printed: stella deployment logs {deployment}"));
    }
    Ok(())
}

/// The last lines of a task's output, and whether there were more.
async fn last_lines(context: &Context, id: &str) -> Result<(VecDeque<String>, bool), Error> {
    let mut tail = Tail::default();
    task::output(context, id, |_, bytes| {
        tail.add(&String::from_utf8_lossy(bytes));
        Ok(())
    })
    .await?;
    Ok(tail.end())
}

#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    open: String,
    left_out: bool,
}

impl Tail {
    fn add(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            let room = LINE_CHARACTERS_MAX.saturating_sub(self.open.chars().count());
            self.open.extend(
                piece.trim_end_matches(['\r', '\n']).chars().filter(|it| !it.is_control()).take(room),
            );
            if piece.ends_with('\n') {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        self.lines.push_back(std::mem::take(&mut self.open));
        if self.lines.len() > LINES_MAX {
            self.lines.pop_front();
            self.left_out = true;
        }
    }

    fn end(mut self) -> (VecDeque<String>, bool) {
        if !self.open.is_empty() {
            self.close();
        }
        (self.lines, self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_cleaned() {
        let mut tail = Tail::default();
        (0..20).for_each(|n| tail.add(&format!("line {n}\r\n")));
        tail.add("half of ");
        tail.add("a line \x1b[31m");
        let (lines, left_out) = tail.end();
        assert!(left_out && lines.len() == LINES_MAX);
        assert_eq!(lines.back().map(String::as_str), Some("half of a line [31m"));
        assert_eq!(lines.front().map(String::as_str), Some("line 6"));
        assert_eq!(Tail::default().end(), (VecDeque::new(), false));
    }
}
