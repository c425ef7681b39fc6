use std::time::Duration;

use super::*;

const BATCH: usize = 340 << 10;

fn org(n: u8) -> OrgId {
    OrgId::from_bytes([n; 16])
}

fn agent(n: u64) -> AgentId {
    AgentId::derived(&[&n.to_le_bytes()])
}

/// Takes a turn that must be there.
async fn take(seat: &Seat) -> Turn {
    tokio::time::timeout(Duration::from_secs(5), seat.granted())
        .await
        .expect("its turn has come")
}

/// Takes a turn if it is there.
async fn try_take(seat: &Seat) -> Option<Turn> {
    tokio::time::timeout(Duration::ZERO, seat.granted())
        .await
        .ok()
}

async fn waits(seat: &Seat) -> bool {
    try_take(seat).await.is_none()
}

#[tokio::test]
async fn a_session_that_dies_gives_its_turn_back_taken_or_not() {
    let fair = Arc::new(Fair::default());
    // As many as one organisation has room for.
    let cost = BATCH + usize::try_from(round::BATCH_COST).unwrap();
    let room = usize::try_from(ORG_ROOM.bytes).unwrap().div_ceil(cost);
    let mut seats: Vec<Seat> = Vec::new();
    for n in 0..3 * u64::try_from(room).unwrap() {
        let seat = fair.seat(org(1), agent(n));
        seat.wait(Lane::Events, BATCH);
        seats.push(seat);
    }
    let turns: Vec<Turn> = {
        let mut turns = Vec::new();
        for seat in &seats[..room / 2] {
            turns.push(take(seat).await);
        }
        turns
    };
    assert!(waits(&seats[room]).await, "there is no room");
    // Half of them had taken their turn, half had not; all die while others wait.
    let rest = seats.split_off(room);
    drop(seats);
    let mut newcomers = Vec::new();
    for seat in &rest {
        newcomers.extend(try_take(seat).await);
    }
    assert_eq!(newcomers.len(), room - room / 2, "the store has the others");
    drop((turns, newcomers));
    drop(rest);
    assert!(fair.state().desks.is_empty());
    let last = fair.seat(org(1), agent(1000));
    last.wait(Lane::Inventory, BATCH);
    assert_eq!(take(&last).await.lane(), Lane::Inventory);
}

#[tokio::test]
async fn a_turn_that_was_waited_for_and_not_taken_is_there_the_next_time() {
    let fair = Arc::new(Fair::default());
    let seat = fair.seat(org(1), agent(1));
    assert!(waits(&seat).await);
    seat.wait(Lane::Events, BATCH);
    // The turn came while nobody waited for it.
    assert_eq!(take(&seat).await.lane(), Lane::Events);
    // It comes while somebody waits, who then looks away, as a branch of `select!` does.
    let mut granted = Box::pin(seat.granted());
    assert!(futures::poll!(granted.as_mut()).is_pending());
    seat.wait(Lane::Inventory, BATCH);
    drop(granted);
    assert_eq!(take(&seat).await.lane(), Lane::Inventory);
    assert!(waits(&seat).await);
}

#[tokio::test]
async fn another_organisation_has_room_while_one_waits_for_its_own() {
    let fair = Arc::new(Fair::default());
    let mut busy = Vec::new();
    for n in 0..1000 {
        let seat = fair.seat(org(1), agent(n));
        for _ in 0..3 {
            seat.wait(Lane::Events, BATCH);
        }
        busy.push(seat);
    }
    let single = fair.seat(org(2), agent(5000));
    for _ in 0..10 {
        single.wait(Lane::Events, BATCH);
        drop(take(&single).await);
    }
}

#[tokio::test]
async fn what_the_store_has_is_finished_though_its_session_is_gone() {
    let fair = Arc::new(Fair::default());
    let seat = fair.seat(org(1), agent(1));
    seat.wait(Lane::Events, BATCH);
    let turn = take(&seat).await;
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let work = fair.run(async move {
        let _ = finished.await;
        drop(turn);
    });
    drop((seat, work));
    let later = fair.seat(org(1), agent(1));
    later.wait(Lane::Events, BATCH);
    assert!(waits(&later).await, "its agent's last batch is at work");
    finish.send(()).unwrap();
    drop(take(&later).await);
    drop(later);
    tokio::time::timeout(Duration::from_secs(5), fair.drained())
        .await
        .expect("nothing is at work");
}
