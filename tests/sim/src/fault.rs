//! What can go wrong, and how it strikes.

use crate::agent::Meddling;
use crate::world::{Event, World};
use crate::{Checked, spool};

/// A fault that a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection breaks after some more bytes.
    Cut,
    /// Nothing arrives for a while, in one direction or both.
    Stall,
    /// Nothing arrives any more, and nobody is told.
    HalfOpen,
    /// Nobody reaches the hub for a while.
    Partition,
    /// The agent's process ends without warning.
    AgentCrash,
    /// The agent's process stands still for a while.
    AgentPause,
    /// The agent's wall clock jumps.
    ClockJump,
    /// The agent's disk takes nothing for a while.
    AgentDiskFull,
    /// The spool's file is damaged and moved aside.
    SpoolDamaged,
    /// The agent's disk is set back to an earlier state.
    SetBack,
    /// The hub ends without warning.
    HubCrash,
    /// The hub's disk takes nothing for a while.
    HubDiskFull,
    /// The hub is restored from a backup.
    HubRestored,
    /// The hub asks the agent to come back later.
    GoAway,
    /// The agent may not connect for a while.
    Suspended,
    /// The agent's transport sends a batch twice.
    Doubled,
    /// The agent's transport swallows a batch.
    Swallowed,
    /// A batch of another agent comes over this agent's connection.
    Forged,
}

impl Kind {
    pub(crate) const ALL: [Kind; 18] = [
        Kind::Cut,
        Kind::Stall,
        Kind::HalfOpen,
        Kind::Partition,
        Kind::AgentCrash,
        Kind::AgentPause,
        Kind::ClockJump,
        Kind::AgentDiskFull,
        Kind::SpoolDamaged,
        Kind::SetBack,
        Kind::HubCrash,
        Kind::HubDiskFull,
        Kind::HubRestored,
        Kind::GoAway,
        Kind::Suspended,
        Kind::Doubled,
        Kind::Swallowed,
        Kind::Forged,
    ];
}

impl World {
    /// Lets one fault strike, if it still may, and plans the next.
    pub(crate) fn fault(&mut self) -> Checked {
        if self.now_ms >= self.plan.faults_ms {
            return Ok(());
        }
        let pause = self.chance.within(self.plan.fault_pause_ms);
        self.after(pause, Event::Fault);
        let Some(&kind) = self.chance.pick(&self.plan.kinds) else {
            return Ok(());
        };
        let agent = self.chance.index(self.agents.len());
        self.trace(format!("fault: {kind:?} at agent {agent}"));
        self.summary.faults += 1;
        let span_ms = self.chance.within((100, 90_000));
        let until_ms = self.now_ms + span_ms;
        match kind {
            Kind::Cut => {
                let bytes = self.chance.below(2_000);
                if let Some(wire) = self.wire_of(agent) {
                    wire.cut_after = Some(bytes);
                }
            }
            Kind::Stall => {
                let which = self.chance.below(3);
                if let Some(wire) = self.wire_of(agent) {
                    if which != 1 {
                        wire.to_hub.frozen_until_ms = until_ms;
                    }
                    if which != 2 {
                        wire.to_agent.frozen_until_ms = until_ms;
                    }
                }
            }
            Kind::HalfOpen => {
                let which = self.chance.below(3);
                if let Some(wire) = self.wire_of(agent) {
                    wire.to_hub.is_black_hole |= which != 1;
                    wire.to_agent.is_black_hole |= which != 2;
                }
            }
            Kind::Partition => self.partition(until_ms),
            Kind::AgentCrash => self.crash_agent(agent, span_ms),
            Kind::AgentPause => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.paused_until_ms = until_ms;
                }
            }
            Kind::ClockJump => {
                let days = self.chance.below(80_000);
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.skew_ms = i64::try_from(days).unwrap_or(0) * 86_400 - 3_456_000_000;
                }
            }
            Kind::AgentDiskFull => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.spool.full_until_ms = until_ms;
                }
            }
            Kind::SpoolDamaged => {
                let fresh = spool::State::new(self.chance.epoch());
                self.crash_agent(agent, span_ms);
                self.replace_spool(agent, fresh);
            }
            Kind::SetBack => self.set_back(agent, span_ms),
            Kind::HubCrash => self.crash_hub(span_ms),
            Kind::HubDiskFull => {
                self.hub.full_until_ms = until_ms;
            }
            Kind::HubRestored => self.restore_hub(span_ms),
            Kind::GoAway => self.ask_to_leave(agent, span_ms)?,
            Kind::Suspended => {
                self.hub.suspended.insert(agent, until_ms);
                self.close_suspended(agent);
            }
            Kind::Doubled => self.meddle(agent, |meddling| meddling.double = true),
            Kind::Swallowed => self.meddle(agent, |meddling| meddling.swallow = true),
            Kind::Forged => self.forge(agent),
        }
        Ok(())
    }

    fn partition(&mut self, until_ms: u64) {
        self.partitioned_until_ms = until_ms;
        for wire in self.wires.values_mut() {
            wire.to_hub.frozen_until_ms = until_ms;
            wire.to_agent.frozen_until_ms = until_ms;
        }
    }

    fn meddle(&mut self, agent: usize, change: impl FnOnce(&mut Meddling)) {
        if let Some(agent) = self.agents.get_mut(agent) {
            change(&mut agent.meddling);
        }
    }

    /// Ends every fault that lasts, and those that wait for their moment: a batch that is swallowed
    /// is missed after five minutes, and what must drain from here on would begin there.
    pub(crate) fn heal(&mut self) {
        self.partitioned_until_ms = 0;
        self.hub.full_until_ms = 0;
        self.hub.suspended.clear();
        for agent in &mut self.agents {
            agent.spool.full_until_ms = 0;
            agent.paused_until_ms = 0;
            agent.meddling = Meddling::default();
        }
        for wire in self.wires.values_mut() {
            wire.cut_after = None;
            for way in [&mut wire.to_hub, &mut wire.to_agent] {
                way.frozen_until_ms = way.frozen_until_ms.min(self.now_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::World;

    #[test]
    fn a_fault_that_still_waits_for_its_moment_does_not_strike_once_faults_have_ended() {
        let mut world = World::new(1);
        world.meddle(0, |meddling| {
            meddling.swallow = true;
            meddling.double = true;
        });
        world.heal();
        let meddling = &world.agents[0].meddling;
        assert!(!meddling.swallow && !meddling.double, "{meddling:?}");
    }
}
