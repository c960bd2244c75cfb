//! From an incident to an act: a person approves, the webhook gets one order, and a halt or a crash never makes it two.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu::Caller,
    installation::{HOST, Installation, Options, eventually},
    webhook::{Receiver, SECRET},
};
use serde_json::Value;

/// An installation with a webhook, a process whose allocation failed, and what is proposed about it.
struct Scene {
    installation: Installation,
    webhook: Receiver,
    decision: Value,
    _secret: tempfile::TempDir,
    _program: Caller,
}

impl Scene {
    fn set(unanswered: usize) -> Result<Self> {
        let webhook = Receiver::start(unanswered)?;
        let secret = tempfile::tempdir()?;
        let secret_file = secret.path().join("secret");
        std::fs::write(&secret_file, SECRET)?;
        let collector_toml = webhook.collector_toml(&secret_file);
        let installation = Installation::start(&Options { collector_toml, ..Options::default() })?;
        let mut program = Caller::start(&["libcudart.so"])?;
        installation.attached(program.pid())?;
        program.call("fixture_fail_next 2")?;
        program.call("cudaMalloc &0 68719476736")?;
        let decision = eventually("a proposal", || {
            Ok(installation.rows(&["decisions"])?.into_iter().find(|row| row["state"] == "proposed"))
        })?;
        Ok(Self { installation, webhook, decision, _secret: secret, _program: program })
    }

    fn id(&self) -> String {
        self.decision["id"].to_string()
    }

    fn say(&self, arguments: &[&str]) -> Result<()> {
        let output = self.installation.railwatch("approve", arguments)?;
        ensure!(output.status.success(), "railwatch {arguments:?}: {output:?}");
        Ok(())
    }

    /// The decision, once it is over.
    fn over(&self) -> Result<Value> {
        eventually("the decision's end", || {
            let rows = self.installation.rows(&["decisions"])?;
            let row = rows.into_iter().find(|row| row["id"] == self.decision["id"]);
            Ok(row.filter(|row| ["done", "failed", "withheld"].iter().any(|state| row["state"] == *state)))
        })
        .with_context(|| {
            format!("{:#?}\n{}", self.installation.rows(&["decisions"]), self.installation.collector.log_text())
        })
    }

    fn restart_collector(&mut self) -> Result<()> {
        self.installation.collector.restart()?;
        self.installation.collector_restarted()
    }
}

#[test]
fn an_approved_decision_is_one_signed_order_and_the_audit_names_who_approved() -> Result<()> {
    let scene = Scene::set(0)?;
    scene.say(&["approve", &scene.id(), "--note", "seen it"])?;
    let decision = scene.over()?;
    ensure!(decision["state"] == "done", "{decision:#}");
    ensure!(decision["outcome"].to_string().contains("queued"), "the webhook's own words: {decision:#}");
    ensure!(decision["actor"].as_str().is_some_and(|actor| !actor.is_empty()), "{decision:#}");

    let requests = scene.webhook.requests();
    ensure!(requests.len() == 1, "{requests:#?}");
    let order = requests[0].order()?;
    let key = requests[0].header("idempotency-key")?;
    ensure!(!key.is_empty() && order["order"]["idempotency_key"] == key, "{order:#}");
    ensure!(order["order"]["epoch"].as_u64() == requests[0].header("railwatch-epoch")?.parse().ok(), "{order:#}");
    ensure!(order["order"]["action"] == scene.decision["action"], "{order:#}");
    ensure!(order["incident"]["element"]["host"] == HOST, "{order:#}");

    let audit = scene.installation.rows(&["audit"])?;
    let approved = audit.iter().find(|row| row.to_string().contains("approve")).context("the audit has it")?;
    ensure!(approved["actor"] == decision["actor"], "{approved:#}\n{decision:#}");
    ensure!(approved.to_string().contains("seen it"), "{approved:#}");

    // Saying it again is no second order.
    let again = scene.installation.railwatch("approve", &["approve", &scene.id()])?;
    ensure!(!again.status.success(), "{again:?}");
    ensure!(scene.webhook.requests().len() == 1, "{:#?}", scene.webhook.requests());
    Ok(())
}

#[test]
fn a_halted_installation_sends_nothing_also_when_it_was_halted_while_the_collector_was_down() -> Result<()> {
    for down in [false, true] {
        let mut scene = Scene::set(0)?;
        if down {
            scene.installation.collector.kill()?;
        }
        let state = scene.installation.path("collector").display().to_string();
        scene.say(&["halt", "--reason", "maintenance", "--state-dir", &state])?;
        if down {
            scene.restart_collector()?;
        }
        let approved = scene.installation.railwatch("approve", &["approve", &scene.id()])?;
        let says_why = String::from_utf8_lossy(&approved.stderr).contains("halted");
        ensure!(!approved.status.success() && says_why, "collector down {down}: {approved:?}");
        ensure!(scene.webhook.requests().is_empty(), "{:#?}", scene.webhook.requests());
    }
    Ok(())
}

#[test]
fn kill_9_while_an_order_is_on_its_way_sends_it_again_with_the_same_key() -> Result<()> {
    let mut scene = Scene::set(1)?;
    scene.say(&["approve", &scene.id()])?;
    eventually("the order", || Ok((!scene.webhook.requests().is_empty()).then_some(())))?;
    scene.installation.collector.kill()?;
    scene.restart_collector()?;
    let decision = scene.over()?;
    ensure!(decision["state"] == "done", "{decision:#}");
    ensure!(scene.webhook.keys()?.len() == 1, "{:#?}", scene.webhook.requests());
    for request in scene.webhook.requests() {
        request.order()?;
    }
    Ok(())
}

#[test]
fn kill_9_right_after_an_approval_loses_it_not_and_doubles_it_not() -> Result<()> {
    let mut scene = Scene::set(0)?;
    scene.say(&["approve", &scene.id()])?;
    scene.installation.collector.kill()?;
    scene.restart_collector()?;
    let decision = scene.over()?;
    ensure!(decision["state"] == "done", "{decision:#}");
    ensure!(scene.webhook.keys()?.len() == 1, "{:#?}", scene.webhook.requests());
    Ok(())
}
