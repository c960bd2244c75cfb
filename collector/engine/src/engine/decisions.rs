//! What the engine does about its incidents: proposes, hears verdicts, gives orders, and takes in how they ended.

use super::{Engine, named};
use crate::decide::{self, Circumstances};
use crate::faults::{OBSERVE, action};
use crate::model::{
    Alternative, Decision, DecisionState, Effect, Element, Guard, Incident, Order, Outcome, PastOrder, Timestamp,
};
use crate::options::MS;

impl Engine {
    pub(super) fn review_all(&mut self, effects: &mut Vec<Effect>) {
        let ids: Vec<u64> = self.keys.keys().copied().collect();
        for id in ids {
            self.review(id, effects);
        }
    }

    /// Weighs an open incident anew: proposes, replaces a weaker proposal, or updates the guards of the one there is.
    pub(super) fn review(&mut self, incident_id: u64, effects: &mut Vec<Effect>) {
        let Some(incident) = self.keys.get(&incident_id).and_then(|key| self.cases.get(key)).cloned() else { return };
        let (chosen, alternatives) = decide::weigh(&incident, &self.options);
        let latest = self.decided.get(&incident_id).and_then(|id| self.decisions.get(id)).cloned();
        let stronger = |than: &str| chosen.cost_gpu_s > action(than).map_or(0.0, |action| action.cost_gpu_s);
        match latest {
            Some(decision) if decision.state == DecisionState::Ordered || !stronger(&decision.action) => {
                if matches!(decision.state, DecisionState::Proposed | DecisionState::Withheld) {
                    self.update(decision, &incident, alternatives, effects);
                }
                return;
            }
            Some(mut weaker) if matches!(weaker.state, DecisionState::Proposed | DecisionState::Withheld) => {
                let why = format!("replaced: the evidence now allows {}", chosen.name);
                self.close(&mut weaker, DecisionState::Withdrawn, why, "engine", "decision.withdrawn", effects);
                self.decisions.remove(&weaker.id);
            }
            _ => {}
        }
        let target = decide::target(&incident, chosen);
        let decision = Decision {
            id: self.next_decision,
            incident: incident_id,
            action: chosen.name.to_owned(),
            guards: self.guards(&incident, chosen.name, &target, None),
            target,
            state: DecisionState::Proposed,
            alternatives,
            proposed: self.now,
            updated: self.now,
            orders: 0,
            actor: None,
            outcome: None,
        };
        self.next_decision += 1;
        self.decided.insert(incident_id, decision.id);
        let what = format!("decision {}: {} on {}", decision.id, decision.action, named(&decision.target));
        self.audit("engine", "decision.proposed", what, effects);
        effects.push(Effect::Decision(decision.clone()));
        self.act_if_automatic(decision, effects);
    }

    fn update(
        &mut self,
        mut decision: Decision,
        incident: &Incident,
        alternatives: Vec<Alternative>,
        effects: &mut Vec<Effect>,
    ) {
        let guards = self.guards(incident, &decision.action, &decision.target, None);
        let held = |guards: &[Guard]| guards.iter().map(|g| (g.name.clone(), g.passed)).collect::<Vec<_>>();
        let names = |rows: &[Alternative]| rows.iter().map(|row| row.action.clone()).collect::<Vec<_>>();
        if held(&guards) != held(&decision.guards) || names(&alternatives) != names(&decision.alternatives) {
            decision.guards = guards;
            decision.alternatives = alternatives;
            decision.updated = self.now;
            effects.push(Effect::Decision(decision.clone()));
        }
        self.act_if_automatic(decision, effects);
    }

    fn act_if_automatic(&mut self, mut decision: Decision, effects: &mut Vec<Effect>) {
        let goes = decision.state == DecisionState::Proposed
            && decision.action != OBSERVE
            && self.options.automatic.contains(&decision.action)
            && decision.guards.iter().all(|guard| guard.passed);
        if goes {
            decision.actor = Some("policy".to_owned());
            self.audit("policy", "decision.approved", format!("decision {}", decision.id), effects);
            self.order(decision, effects);
        } else {
            self.decisions.insert(decision.id, decision);
        }
    }

    fn guards(&self, incident: &Incident, action: &str, target: &Element, approved_by: Option<&str>) -> Vec<Guard> {
        let around = Circumstances {
            now: self.now,
            halted_by: self.halted_by.as_deref(),
            approved_by,
            past: &self.past,
            hosts_watched: self.hosts.watched(),
        };
        decide::guards(incident, action, target, &around, &self.options)
    }

    pub(super) fn verdict(&mut self, id: u64, actor: &str, approve: bool, note: &str, effects: &mut Vec<Effect>) {
        let Some(mut decision) = self.decisions.get(&id).cloned() else {
            self.audit(actor, "verdict.refused", format!("decision {id}: there is no such decision to judge"), effects);
            return;
        };
        if !matches!(decision.state, DecisionState::Proposed | DecisionState::Withheld) {
            let why = format!("decision {id}: it is {:?} already", decision.state).to_lowercase();
            self.audit(actor, "verdict.refused", why, effects);
            return;
        }
        let noted = if note.is_empty() { String::new() } else { format!(": {note}") };
        decision.actor = Some(actor.to_owned());
        if !approve {
            let why = format!("rejected{noted}");
            self.close(&mut decision, DecisionState::Rejected, why, actor, "decision.rejected", effects);
            self.decisions.insert(id, decision);
            return;
        }
        self.audit(actor, "decision.approved", format!("decision {id}{noted}"), effects);
        let incident = self.keys.get(&decision.incident).and_then(|key| self.cases.get(key)).cloned();
        let Some(incident) = incident else { return };
        decision.guards = self.guards(&incident, &decision.action, &decision.target, Some(actor));
        let held_back: Vec<String> = decision
            .guards
            .iter()
            .filter(|guard| !guard.passed)
            .map(|guard| format!("{}: {}", guard.name, guard.reason))
            .collect();
        if !held_back.is_empty() {
            let why = format!("withheld: {}", held_back.join("; "));
            self.close(&mut decision, DecisionState::Withheld, why, "engine", "decision.withheld", effects);
            self.decisions.insert(id, decision);
        } else if decision.action == OBSERVE {
            let why = "nothing to carry out".to_owned();
            self.close(&mut decision, DecisionState::Done, why, "engine", "decision.done", effects);
            self.decisions.insert(id, decision);
        } else {
            self.order(decision, effects);
        }
    }

    fn order(&mut self, mut decision: Decision, effects: &mut Vec<Effect>) {
        decision.orders += 1;
        decision.state = DecisionState::Ordered;
        decision.updated = self.now;
        decision.outcome = None;
        let order = Order {
            idempotency_key: self.key_of(&decision),
            epoch: self.epoch,
            decision: decision.id,
            action: decision.action.clone(),
            target: decision.target.clone(),
            expires: Timestamp(self.now.0.saturating_add(self.options.order_ttl_ms * MS)),
        };
        self.past.push_back(PastOrder { at: self.now, order: order.clone() });
        while self.past.len() > self.options.limits.past_orders_max {
            self.past.pop_front();
        }
        effects.push(Effect::Decision(decision.clone()));
        self.audit(
            "engine",
            "order.given",
            format!("{} on {}: {}", order.action, named(&order.target), order.idempotency_key),
            effects,
        );
        effects.push(Effect::Order(order));
        self.decisions.insert(decision.id, decision);
    }

    pub(super) fn order_finished(&mut self, key: &str, outcome: Outcome, effects: &mut Vec<Effect>) {
        let id = key.rsplit('-').next().and_then(|id| id.parse::<u64>().ok());
        let decision = id.and_then(|id| self.decisions.get(&id)).cloned();
        let Some(mut decision) = decision.filter(|d| d.state == DecisionState::Ordered && key == self.key_of(d)) else {
            self.audit("executor", "order.unknown", format!("{key}: no order of that key is out"), effects);
            return;
        };
        let (state, what, detail) = match outcome {
            Outcome::Done { detail } => (DecisionState::Done, "order.done", detail),
            Outcome::Failed { detail } => (DecisionState::Failed, "order.failed", detail),
            Outcome::Withheld { detail } => {
                // It was not carried out: neither rate nor cooldown counts it.
                self.past.retain(|past| past.order.idempotency_key != key);
                (DecisionState::Withheld, "order.withheld", detail)
            }
        };
        self.close(&mut decision, state, detail, "executor", what, effects);
        let (id, incident) = (decision.id, decision.incident);
        self.decisions.insert(id, decision);
        if self.keys.contains_key(&incident) {
            self.review(incident, effects);
        } else {
            self.end_with_incident(id, effects);
        }
    }

    /// A decision has one key for ever: an order given again after it was withheld may have arrived the first time.
    fn key_of(&self, decision: &Decision) -> String {
        format!("{}-{}", self.installation, decision.id)
    }

    /// What becomes of a decision whose incident is over.
    pub(super) fn end_with_incident(&mut self, id: u64, effects: &mut Vec<Effect>) {
        let Some(mut decision) = self.decisions.get(&id).cloned() else { return };
        match decision.state {
            DecisionState::Ordered => effects.push(Effect::Cancel {
                idempotency_key: self.key_of(&decision),
                reason: "the incident resolved before it was carried out".to_owned(),
            }),
            DecisionState::Proposed | DecisionState::Withheld | DecisionState::Approved => {
                let why = "the incident resolved".to_owned();
                self.close(&mut decision, DecisionState::Withdrawn, why, "engine", "decision.withdrawn", effects);
                self.decisions.remove(&id);
            }
            DecisionState::Rejected | DecisionState::Done | DecisionState::Failed | DecisionState::Withdrawn => {
                self.decisions.remove(&id);
            }
        }
    }

    fn close(
        &self,
        decision: &mut Decision,
        state: DecisionState,
        outcome: String,
        actor: &str,
        what: &str,
        effects: &mut Vec<Effect>,
    ) {
        decision.state = state;
        decision.updated = self.now;
        self.audit(actor, what, format!("decision {}: {outcome}", decision.id), effects);
        decision.outcome = Some(outcome);
        effects.push(Effect::Decision(decision.clone()));
    }

    pub(super) fn halt(&mut self, halted: bool, actor: String, reason: &str, effects: &mut Vec<Effect>) {
        if halted == self.halted_by.is_some() {
            return;
        }
        let (what, detail) = if halted { ("halt", "nothing is carried out") } else { ("release", "acting goes on") };
        let detail = if reason.is_empty() { detail.to_owned() } else { format!("{detail}: {reason}") };
        self.audit(&actor, what, detail, effects);
        self.halted_by = halted.then_some(actor);
        self.review_all(effects);
    }
}
