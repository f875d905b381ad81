//! What tasks print, as JSON lines.

use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use serde_json::{Value, json};
use stella_protocol::id::{AttemptKey, TaskId, TenantId};
use stella_protocol::message::{OutputChunk, OutputHeader, OutputSource};
use stella_protocol::time::Timestamp;

use crate::world::{Busy, Reading, World};

fn chunk(source: OutputSource, bytes: &[u8]) -> OutputChunk {
    OutputChunk { source, at: Timestamp(1_000), bytes: bytes.to_vec() }
}

/// The task's attempt in the store.
fn attempt(world: &World, busy: &Busy) -> (TenantId, AttemptKey) {
    let state = world.handle().state();
    let tenant = state.tenants.values().find(|tenant| busy.at.ends_with(tenant.name.as_str())).unwrap();
    (tenant.id, tenant.tasks[&busy.task.parse::<TaskId>().unwrap()].key())
}

async fn write(world: &World, busy: &Busy, offset: u64, chunks: Vec<OutputChunk>) {
    let (tenant, key) = attempt(world, busy);
    let mut writer = world.output.writer(tenant, OutputHeader { key, offset }).await.unwrap();
    writer.append(chunks).await.unwrap();
}

/// As a stream ends that has brought everything up to there.
async fn complete(world: &World, busy: &Busy, end: u64) {
    let (tenant, key) = attempt(world, busy);
    let writer = world.output.writer(tenant, OutputHeader { key, offset: end }).await.unwrap();
    writer.complete().await.unwrap();
}

async fn follow(world: &World, busy: &Busy) -> Reading {
    let request = world.request("GET", &format!("{}/tasks/{}/output?follow=true", busy.at, busy.task));
    let response = world.open(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    Reading::new(response)
}

async fn line(reading: &mut Reading) -> Option<Value> {
    reading.until("\n").await.map(|line| serde_json::from_str(&line).unwrap())
}

async fn cancel(world: &World, busy: &Busy) {
    let path = format!("{}/deployments/{}/cancel", busy.at, busy.deployment);
    world.post(&path, &json!({"reason": "seen enough"})).await.expect(200);
    let task = world.get(&format!("{}/tasks/{}", busy.at, busy.task)).await.expect(200);
    assert_eq!((&task["final"], &task["state"]), (&json!(true), &json!("cancelled")), "{task}");
}

#[tokio::test]
async fn a_piece_is_a_line_with_its_number_and_source() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let path = format!("{}/tasks/{}/output", busy.at, busy.task);
    let nothing = world.get(&path).await;
    assert_eq!((nothing.status.as_u16(), nothing.body.len()), (200, 0));
    let bytes = [0xff, 0x00, 0xfe];
    let pieces = vec![
        chunk(OutputSource::Stdout, "größer\nzwei".as_bytes()),
        chunk(OutputSource::Stderr, &bytes),
        chunk(OutputSource::Agent, b"said the agent"),
    ];
    write(&world, &busy, 0, pieces).await;
    let all = world.get(&path).await;
    assert_eq!(all.header("content-type"), Some("application/x-ndjson"));
    let text = String::from_utf8(all.body.to_vec()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = "1970-01-01T00:00:01.000Z";
    let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
    let expected = [
        json!({"record": 0, "source": "stdout", "at": at, "text": "größer\nzwei"}),
        json!({"record": 1, "source": "stderr", "at": at, "base64": base64}),
        json!({"record": 2, "source": "agent", "at": at, "text": "said the agent"}),
    ];
    assert_eq!(lines, expected);
    let rest = String::from_utf8(world.get(&format!("{path}?from=2")).await.body.to_vec()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&rest).unwrap(), expected[2]);
    assert!(world.get(&format!("{path}?from=3")).await.body.is_empty());
    assert_eq!(world.get(&format!("{path}?from=x")).await.expect(400)["code"], "malformed_request");
}

#[tokio::test]
async fn following_goes_on_until_the_task_has_ended() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    write(&world, &busy, 0, vec![chunk(OutputSource::Stdout, b"one")]).await;
    let mut reading = follow(&world, &busy).await;
    assert_eq!(line(&mut reading).await.unwrap()["text"], "one");
    write(&world, &busy, 3, vec![chunk(OutputSource::Stdout, b"two")]).await;
    let two = line(&mut reading).await.unwrap();
    assert_eq!((&two["record"], &two["text"]), (&json!(1), &json!("two")));
    // Written before the end: it must not be lost.
    write(&world, &busy, 6, vec![chunk(OutputSource::Stderr, b"three")]).await;
    cancel(&world, &busy).await;
    assert_eq!(line(&mut reading).await.unwrap()["text"], "three");
    // Output has a stream of its own and may come later than the result.
    write(&world, &busy, 11, vec![chunk(OutputSource::Stderr, b"rest")]).await;
    assert_eq!(line(&mut reading).await.unwrap()["text"], "rest");
    // Time goes on by itself as soon as nothing else can happen.
    tokio::time::pause();
    assert_eq!(line(&mut reading).await, None);
}

#[tokio::test]
async fn following_ends_when_the_agent_says_that_nothing_follows() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let mut reading = follow(&world, &busy).await;
    write(&world, &busy, 0, vec![chunk(OutputSource::Stdout, b"all")]).await;
    cancel(&world, &busy).await;
    complete(&world, &busy, 3).await;
    assert_eq!(line(&mut reading).await.unwrap()["text"], "all");
    assert_eq!(line(&mut reading).await, None);
}

#[tokio::test]
async fn following_goes_on_behind_a_gap_that_a_stream_has_ended_at() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let mut reading = follow(&world, &busy).await;
    write(&world, &busy, 0, vec![chunk(OutputSource::Stdout, b"before")]).await;
    assert_eq!(line(&mut reading).await.unwrap()["text"], "before");
    // Agents end a stream where they have lost output, and go on in another one.
    complete(&world, &busy, 6).await;
    tokio::time::pause();
    tokio::select! {
        biased;
        said = line(&mut reading) => panic!("{said:?}, while the task goes on"),
        () = tokio::time::sleep(Duration::from_secs(10)) => {}
    }
    tokio::time::resume();
    write(&world, &busy, 10, vec![chunk(OutputSource::Stdout, b"behind")]).await;
    assert_eq!(line(&mut reading).await.unwrap()["text"], "\n[some output was lost on its way]\n");
    assert_eq!(line(&mut reading).await.unwrap()["text"], "behind");
}

#[tokio::test]
async fn following_a_task_that_prints_nothing_ends_with_it_or_with_the_control_plane() {
    let world = World::new().await;
    let (one, other) = (world.busy_tenant("acme").await, world.busy_tenant("globex").await);
    let (mut first, mut second) = (follow(&world, &one).await, follow(&world, &other).await);
    cancel(&world, &one).await;
    tokio::time::pause();
    assert_eq!(line(&mut first).await, None);
    world.shutdown.cancel();
    assert_eq!(line(&mut second).await, None);
}

#[tokio::test]
async fn more_than_a_page_of_output_is_read_to_its_end() {
    let world = World::new().await;
    let busy = world.busy_tenant("acme").await;
    let pieces = (0..1_000_u32).map(|number| chunk(OutputSource::Stdout, format!("{number:04}").as_bytes()));
    write(&world, &busy, 0, pieces.collect()).await;
    let answer = world.get(&format!("{}/tasks/{}/output", busy.at, busy.task)).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for (number, line) in text.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["record"], &line["text"]), (&json!(number), &json!(format!("{number:04}"))));
    }
    assert_eq!(text.lines().count(), 1_000);
}
