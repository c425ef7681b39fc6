use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const QUANTUM: u64 = 512 << 10;
/// The largest batch of the tests, with its own price.
const LARGEST: u64 = (8 << 20) + BATCH_COST;

fn bounds(all: u64, org: u64) -> Bounds {
    let room = |batches| Room {
        batches,
        bytes: u64::MAX,
    };
    Bounds {
        quantum: QUANTUM,
        org: room(org),
        all: room(all),
    }
}

fn org(n: u8) -> OrgId {
    OrgId::from_bytes([n; 16])
}

fn agent(of: u8, n: u16) -> AgentId {
    AgentId::derived(&[&[of], &n.to_le_bytes()])
}

/// Who sits where, and what each has waiting: the memory of a test.
#[derive(Default)]
struct Table {
    seats: BTreeMap<SeatId, (u8, u16)>,
    waiting: BTreeMap<(SeatId, Lane), VecDeque<u64>>,
}

impl Table {
    fn sit(&mut self, round: &mut Round, of: u8, n: u16) -> SeatId {
        let seat = round.sit(org(of), agent(of, n));
        self.seats.insert(seat, (of, n));
        seat
    }

    fn wait(&mut self, round: &mut Round, seat: SeatId, lane: Lane, bytes: u64) {
        round.wait(seat, lane, bytes);
        let queue = self.waiting.entry((seat, lane)).or_default();
        queue.push_back(bytes + BATCH_COST);
    }

    fn granted(&mut self, grant: Grant) -> (u8, u16, u64) {
        let queue = self.waiting.get_mut(&(grant.seat, grant.lane)).unwrap();
        let cost = queue.pop_front().unwrap();
        let (of, n) = self.seats[&grant.seat];
        (of, n, cost)
    }
}

/// What is kept of nobody.
#[track_caller]
fn is_empty(round: &Round) {
    assert!(round.agents.is_empty(), "{round:?}");
    assert!(round.orgs.is_empty(), "{round:?}");
    assert!(round.ring.is_empty(), "{round:?}");
    assert_eq!(round.load, Load::default());
}

#[test]
fn one_agent_waits_for_one_turn_of_an_organisation_with_a_thousand_busy_ones() {
    let mut round = Round::new(bounds(64, 16));
    let batch = 340 << 10;
    let mut hands = VecDeque::new();
    for n in 0..1000 {
        let seat = round.sit(org(1), agent(1, n));
        for _ in 0..4 {
            round.wait(seat, Lane::Events, batch);
        }
    }
    while let Some(grant) = round.grant() {
        hands.push_back(grant.seat);
    }
    assert_eq!(hands.len(), 16, "one organisation cannot take all the room");

    let single = round.sit(org(2), agent(2, 0));
    for _ in 0..100 {
        round.wait(single, Lane::Events, batch);
        // There is room left for it whatever the others do.
        assert_eq!(round.grant().unwrap().seat, single);
        assert_eq!(round.grant(), None);
        round.done(single);
        round.done(hands.pop_front().unwrap());
        hands.push_back(round.grant().unwrap().seat);
    }
}

#[test]
fn of_an_agent_the_most_urgent_lane_goes_first_and_one_batch_at_a_time() {
    let mut round = Round::new(bounds(64, 16));
    let seat = round.sit(org(1), agent(1, 0));
    for lane in [Lane::Results, Lane::Inventory, Lane::Inventory] {
        round.wait(seat, lane, 1000);
    }
    let next = |round: &mut Round| round.grant().map(|grant| grant.lane);
    assert_eq!(next(&mut round), Some(Lane::Inventory));
    assert_eq!(next(&mut round), None, "the first is in the store's hands");
    round.wait(seat, Lane::Events, 1000);
    round.done(seat);
    for lane in [Lane::Events, Lane::Inventory, Lane::Results] {
        assert_eq!(next(&mut round), Some(lane));
        round.done(seat);
    }
    round.leave(seat);
    is_empty(&round);
}

#[test]
fn a_later_session_waits_for_what_the_store_has_of_the_earlier_one() {
    let mut round = Round::new(bounds(64, 16));
    let older = round.sit(org(1), agent(1, 0));
    round.wait(older, Lane::Events, 1000);
    round.wait(older, Lane::Events, 1000);
    assert_eq!(round.grant().unwrap().seat, older);

    let newer = round.sit(org(1), agent(1, 0));
    round.wait(newer, Lane::Events, 1000);
    // The older one has nothing to say any more.
    round.wait(older, Lane::Events, 1000);
    round.leave(older);
    assert_eq!(round.grant(), None);
    round.done(newer);
    assert_eq!(
        round.grant(),
        None,
        "it is not the newer one's to give back"
    );
    round.done(older);
    assert_eq!(round.grant().unwrap().seat, newer);
    assert_eq!(round.grant(), None);
    round.leave(newer);
    assert_eq!(round.load.batches, 1, "the store still has it");
    round.done(newer);
    is_empty(&round);
}

#[test]
fn the_room_is_bounded_in_batches_and_in_bytes() {
    let check = |bounds: Bounds, want: usize| {
        let mut round = Round::new(bounds);
        for of in 1..=3 {
            for n in 0..100 {
                let seat = round.sit(org(of), agent(of, n));
                round.wait(seat, Lane::Events, (1 << 20) - BATCH_COST);
            }
        }
        assert_eq!(std::iter::from_fn(|| round.grant()).count(), want);
    };
    check(bounds(50, 20), 50);
    check(bounds(500, 20), 60);
    let mut bytes = bounds(500, 500);
    bytes.org.bytes = 4 << 20;
    check(bytes, 12);
    bytes.all.bytes = 10 << 20;
    check(bytes, 10);
    // One that is larger than all the room goes alone.
    bytes.all.bytes = 1;
    check(bytes, 1);
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(100u64),
        1u64..4096,
        Just(340u64 << 10),
        1u64..(8 << 20),
        Just(8u64 << 20),
    ]
}

proptest! {
    /// Everybody is always busy: nobody gets more than a quantum and two batches above another,
    /// neither organisations nor the agents of one.
    #[test]
    fn who_is_always_busy_gets_as_many_bytes_as_any_other(
        sizes_of in proptest::collection::vec(proptest::collection::vec(sizes(), 1..6), 2..5),
        agents in proptest::collection::vec(1u16..12, 4),
        grants in 100usize..1500,
    ) {
        let mut round = Round::new(bounds(1, 1));
        let mut table = Table::default();
        let mut turn = 0;
        let mut next_size = |of: u8| {
            turn += 1;
            let sizes = &sizes_of[usize::from(of)];
            sizes[turn % sizes.len()]
        };
        for of in 0..u8::try_from(sizes_of.len()).unwrap() {
            for n in 0..agents[usize::from(of)] {
                let seat = table.sit(&mut round, of, n);
                for _ in 0..2 {
                    table.wait(&mut round, seat, Lane::Events, next_size(of));
                }
            }
        }
        let mut by_org: BTreeMap<u8, u64> = BTreeMap::new();
        let mut by_agent: BTreeMap<(u8, u16), u64> = BTreeMap::new();
        for (of, n) in table.seats.values() {
            by_org.insert(*of, 0);
            by_agent.insert((*of, *n), 0);
        }
        for _ in 0..grants {
            let grant = round.grant().unwrap();
            let (of, n, cost) = table.granted(grant);
            *by_org.get_mut(&of).unwrap() += cost;
            *by_agent.get_mut(&(of, n)).unwrap() += cost;
            table.wait(&mut round, grant.seat, Lane::Events, next_size(of));
            round.done(grant.seat);
        }
        let most_apart = QUANTUM + 2 * LARGEST;
        let (least, most) = (by_org.values().min().unwrap(), by_org.values().max().unwrap());
        prop_assert!(most - least <= most_apart, "{by_org:?}");
        for of in by_org.keys() {
            let shares = || by_agent.iter().filter(|((org, _), _)| org == of).map(|(_, cost)| *cost);
            let apart = shares().max().unwrap() - shares().min().unwrap();
            prop_assert!(apart <= most_apart, "{by_agent:?}");
        }
    }

    /// Who comes late waits for at most one turn of each other organisation.
    #[test]
    fn nobody_waits_longer_than_a_round(
        others in proptest::collection::vec((1u16..40, sizes()), 1..5),
        hands in 1u64..8,
        warm_up in 0usize..300,
        mine in sizes(),
    ) {
        let mut round = Round::new(bounds(hands, hands));
        let mut table = Table::default();
        for (of, (agents, size)) in others.iter().enumerate() {
            let of = u8::try_from(of).unwrap();
            for n in 0..*agents {
                let seat = table.sit(&mut round, of, n);
                for _ in 0..2 {
                    table.wait(&mut round, seat, Lane::Events, *size);
                }
            }
        }
        let size_of = |of: u8| others[usize::from(of)].1;
        let mut in_hand = VecDeque::new();
        let mut step = |round: &mut Round, table: &mut Table| {
            let mut taken = Vec::new();
            while let Some(grant) = round.grant() {
                let (of, _, cost) = table.granted(grant);
                if of != u8::MAX {
                    table.wait(round, grant.seat, Lane::Events, size_of(of));
                }
                in_hand.push_back(grant.seat);
                taken.push((of, cost));
            }
            round.done(in_hand.pop_front().unwrap());
            taken
        };
        for _ in 0..warm_up {
            step(&mut round, &mut table);
        }
        let late = table.sit(&mut round, u8::MAX, 0);
        table.wait(&mut round, late, Lane::Events, mine);
        let mut before_me: BTreeMap<u8, u64> = BTreeMap::new();
        'waiting: for _ in 0..10_000 {
            for (of, cost) in step(&mut round, &mut table) {
                if of == u8::MAX {
                    break 'waiting;
                }
                *before_me.entry(of).or_default() += cost;
            }
        }
        prop_assert!(table.waiting[&(late, Lane::Events)].is_empty(), "it starved");
        // My own batch takes as many turns as it has quanta.
        let turns = (mine + BATCH_COST).div_ceil(QUANTUM);
        for (of, cost) in before_me {
            let largest = size_of(of) + BATCH_COST;
            prop_assert!(cost <= turns * QUANTUM + 2 * largest, "org {of}: {cost} of {turns} turns");
        }
    }

    /// Sessions come, wait, are granted, die at any moment and come back: the room that is taken is
    /// that of the batches in hand, whoever can go goes, each lane in order, and in the end
    /// nothing is left.
    #[test]
    fn sessions_that_die_at_any_moment_leave_nothing_behind(
        acts in proptest::collection::vec((0u8..7, 0u8..3, 0u16..4, 0u8..4, sizes()), 1..400),
    ) {
        let mut round = Round::new(bounds(5, 3));
        let mut table = Table::default();
        let mut sitting: BTreeMap<(u8, u16), SeatId> = BTreeMap::new();
        let mut in_hand: BTreeMap<SeatId, u64> = BTreeMap::new();
        for (act, of, n, lane, size) in acts {
            let lane = Lane::DATA[usize::from(lane)];
            let seat = sitting.get(&(of, n)).copied();
            match (act, seat) {
                (0, _) => {
                    let seat = table.sit(&mut round, of, n);
                    if let Some(older) = sitting.insert((of, n), seat) {
                        table.waiting.retain(|(seat, _), _| *seat != older);
                    }
                }
                (1 | 2, Some(seat)) => table.wait(&mut round, seat, lane, size),
                (3, Some(seat)) => {
                    round.withdraw(seat, lane);
                    table.waiting.remove(&(seat, lane));
                }
                (4, Some(seat)) => {
                    round.leave(seat);
                    table.waiting.retain(|(waiting, _), _| *waiting != seat);
                    sitting.remove(&(of, n));
                }
                (5, _) => {
                    let urgent: BTreeMap<SeatId, Lane> = table
                        .waiting
                        .iter()
                        .rev()
                        .filter(|(_, costs)| !costs.is_empty())
                        .map(|((seat, lane), _)| (*seat, *lane))
                        .collect();
                    let busy: BTreeSet<(u8, u16)> =
                        in_hand.keys().map(|seat| table.seats[seat]).collect();
                    let load_of = |of: u8| busy.iter().filter(|(org, _)| *org == of).count();
                    let can_go = urgent.keys().any(|seat| {
                        let (of, n) = table.seats[seat];
                        !busy.contains(&(of, n)) && load_of(of) < 3
                    });
                    let granted = round.grant();
                    prop_assert_eq!(granted.is_some(), can_go && busy.len() < 5);
                    if let Some(grant) = granted {
                        prop_assert_eq!(urgent[&grant.seat], grant.lane);
                        let (of, n, cost) = table.granted(grant);
                        prop_assert!(!busy.contains(&(of, n)));
                        in_hand.insert(grant.seat, cost);
                    }
                }
                (6, _) => {
                    if let Some((seat, _)) = in_hand.pop_first() {
                        round.done(seat);
                        // It is given back once.
                        round.done(seat);
                    }
                }
                _ => {}
            }
            let batches = u64::try_from(in_hand.len()).unwrap();
            let bytes = in_hand.values().sum();
            prop_assert_eq!(round.load, Load { batches, bytes });
        }
        for seat in sitting.values() {
            round.leave(*seat);
        }
        for seat in in_hand.keys() {
            round.done(*seat);
        }
        is_empty(&round);
    }
}
