//! What agents do: they come and go, carry out, say what became of it, and lose their memory.

use super::*;

impl Walk {
    pub(super) fn report(&mut self, n: u128, report: Report) {
        if self.is_heard(n) {
            let session = self.world.session(n);
            self.tenant(TenantCommand::Report { agent: agent(n), session, report });
        }
    }

    pub(super) fn prove(&mut self, n: u128, how: u8) {
        let Some(Inspect { question, wanted, .. }) = self.world.question(n).filter(|_| self.is_heard(n))
        else {
            return;
        };
        let holding = match how {
            0 => Holding::Absent,
            1 => Holding::Damaged { reason: "walk".to_owned() },
            2 => Holding::Unverified { reason: "walk".to_owned() },
            _ => Holding::Present { files: 1, bytes: 2 },
        };
        let (agent, session) = (agent(n), self.world.session(n));
        let holdings = vec![holding; wanted.len()];
        self.tenant(TenantCommand::AnswerInspection { agent, session, question, holdings });
    }

    pub(super) fn probe(&mut self, n: u128, how: u8) {
        let asked = self.world.tenant().probes(agent(n), self.world.now).next();
        let Some(asked) = asked.filter(|_| self.is_heard(n)) else { return };
        let words = "walk".to_owned();
        let effect = match how {
            0 => Effect::Absent { what: words },
            1 => Effect::Unclear { reason: words },
            _ => Effect::There { what: words },
        };
        let (agent, session) = (agent(n), self.world.session(n));
        self.tenant(TenantCommand::AnswerProbe { agent, session, question: asked.question, effect });
    }

    pub(super) fn connect(&mut self, n: u128, journal_rolled_back: bool) {
        let host = &self.hosts[&n];
        let open =
            host.open.iter().map(|(key, (phase, _))| OpenAttempt { key: *key, phase: *phase }).collect();
        let mut hello = Box::new(hello(mark(host.incarnation, host.position), open));
        if n == AGENTS {
            // One is too old to be asked what its host holds.
            hello.capabilities &= !(capability::HOLDINGS | capability::PROBES);
        }
        self.tenant(TenantCommand::ConnectAgent { agent: agent(n), hello, journal_rolled_back });
        self.repeat(n);
    }

    pub(super) fn disconnect(&mut self, n: u128) {
        let session = self.world.session(n);
        self.tenant(TenantCommand::DisconnectAgent { agent: agent(n), session, reason: "walk".to_owned() });
    }

    pub(super) fn accept(&mut self, n: u128) {
        if !self.online(n) {
            return;
        }
        let session = self.world.session(n);
        let sent: Vec<_> = self
            .world
            .tenant()
            .unsettled_tasks(agent(n))
            .filter(|task| matches!(task.state, TaskState::Dispatched { session: of, .. } if of == session))
            .map(|task| task.key())
            .collect();
        for key in sent {
            let host = self.hosts.get_mut(&n).unwrap();
            if host.open.contains_key(&key) {
                continue;
            }
            host.position += 1;
            host.open.insert(key, (Phase::Accepted, None));
            let position = Position(host.position);
            self.report(n, Report::Accepted(Accepted { key, position }));
        }
    }

    /// Of the first that was told to end; nothing says that the stages come in order.
    pub(super) fn say_ending(&mut self, n: u128, stage: u8) {
        let stages = [EndingStage::Delivered, EndingStage::Terminated, EndingStage::Killed];
        let tasks: Vec<_> = self.world.tenant().unsettled_tasks(agent(n)).cloned().collect();
        let key = tasks.iter().find(|task| task.cancel_requested).map(|task| task.key());
        if let Some(key) = key.filter(|key| self.hosts[&n].open.contains_key(key)) {
            self.report(n, Report::Ending(Ending { key, stage: stages[usize::from(stage)] }));
        }
    }

    pub(super) fn run(&mut self, n: u128) {
        let host = self.hosts.get_mut(&n).unwrap();
        let Some((key, entry)) = host.open.iter_mut().find(|(_, (phase, _))| *phase == Phase::Accepted)
        else {
            return;
        };
        let key = *key;
        *entry = (Phase::Running, None);
        host.position += 1;
        // With a restored backup the same ids come again, and a person may have settled what was forgotten.
        assert!(self.ran.insert(key) || self.restored, "{key} ran twice");
        let started_at = self.world.now;
        self.report(n, Report::Running(Running { key, started_at }));
    }

    pub(super) fn finish(&mut self, n: u128, outcome: TaskOutcome) {
        let host = self.hosts.get_mut(&n).unwrap();
        let Some((key, entry)) = host.open.iter_mut().find(|(_, (phase, _))| *phase == Phase::Running) else {
            return;
        };
        let key = *key;
        *entry = (Phase::Finished, Some(outcome));
        host.position += 1;
        self.say_finished(n, key);
    }

    pub(super) fn say_finished(&mut self, n: u128, key: AttemptKey) {
        let host = &self.hosts[&n];
        let Some((_, Some(outcome))) = host.open.get(&key).cloned() else { return };
        let (position, finished_at) = (Position(host.position), self.world.now);
        if self.is_heard(n) {
            let report = Finished { key, position, started_at: None, finished_at, outcome };
            self.report(n, Report::Finished(report));
            self.hosts.get_mut(&n).unwrap().open.remove(&key);
        }
    }

    pub(super) fn repeat(&mut self, n: u128) {
        let keys: Vec<_> = self.hosts[&n].open.keys().copied().collect();
        for key in keys {
            self.say_finished(n, key);
        }
    }

    pub(super) fn restore(&mut self, lost: usize) {
        let kept = self.commands.len().saturating_sub(lost).max(1);
        self.commands.truncate(kept);
        self.world.events.truncate(*self.commands.last().unwrap());
        self.replayed = State::default();
        for (stream, event) in &self.world.events {
            self.replayed.apply(*stream, event).unwrap();
        }
        self.world.state = self.replayed.clone();
        self.restored = true;
        // What is asked for from now on may have the ids of what was forgotten.
        self.plans = Plans::default();
        self.unproven = Unproven::default();
        self.unproven.note(&self.world.events);
        for n in 1..=AGENTS {
            self.disconnect(n);
            self.connect(n, true);
        }
    }
}
