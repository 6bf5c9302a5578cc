//! The checker against histories that are known to be right or wrong: made by an object that is really there, with
//! and without a fault; and small ones of every kind, against all orders.

use super::checks::*;
use super::models::*;
use super::*;
use crate::dice::Dice;

/// An object that is really there.
trait Live: Model {
    type Data: Clone + Default;
    fn ask(dice: &mut Dice, unique: u64) -> Self::Input;
    fn apply(data: &mut Self::Data, input: &Self::Input) -> Self::Output;
}

impl Live for Register {
    type Data = Option<u64>;

    fn ask(dice: &mut Dice, unique: u64) -> RegisterInput {
        match dice.roll(4) {
            0 => RegisterInput::Write(unique),
            1 => RegisterInput::Cas { expected: Some(unique.saturating_sub(1 + dice.roll(9))), new: unique },
            2 => RegisterInput::Cas { expected: None, new: unique },
            _ => RegisterInput::Read,
        }
    }

    fn apply(data: &mut Option<u64>, input: &RegisterInput) -> RegisterOutput {
        match *input {
            RegisterInput::Read => RegisterOutput::Value(*data),
            RegisterInput::Write(new) => {
                *data = Some(new);
                RegisterOutput::Written
            }
            RegisterInput::Cas { expected, new } => {
                let swapped = *data == expected;
                *data = if swapped { Some(new) } else { *data };
                RegisterOutput::Swapped(swapped)
            }
        }
    }
}

impl Live for Counter {
    type Data = u64;

    fn ask(dice: &mut Dice, _unique: u64) -> CounterInput {
        if dice.roll(3) == 0 { CounterInput::Read } else { CounterInput::Increment }
    }

    fn apply(data: &mut u64, input: &CounterInput) -> u64 {
        *data += u64::from(*input == CounterInput::Increment);
        *data
    }
}

impl Live for AppendList {
    type Data = Vec<u64>;

    fn ask(dice: &mut Dice, unique: u64) -> ListInput {
        if dice.roll(8) == 0 { ListInput::Read } else { ListInput::Append(unique) }
    }

    fn apply(data: &mut Vec<u64>, input: &ListInput) -> ListOutput {
        match input {
            ListInput::Append(value) => {
                data.push(*value);
                ListOutput::Appended
            }
            ListInput::Read => ListOutput::All(data.clone()),
        }
    }
}

/// Clients that work on an object at the same time, some of whose calls fail or get no answer.
struct Run<M: Live> {
    dice: Dice,
    now: u64,
    data: M::Data,
    history: Vec<Operation<M>>,
    /// For each client its call, and the answer once it has happened.
    calls: Vec<Option<(usize, Option<M::Output>)>>,
    /// Calls without an answer that may happen yet.
    ghosts: Vec<M::Input>,
    /// Of how many calls one gets no answer; 0: all do.
    crash_of: u64,
}

impl<M: Live> Run<M> {
    fn new(seed: u64, clients: usize, crash_of: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            now: 0,
            data: M::Data::default(),
            history: Vec::new(),
            calls: vec![None; clients],
            ghosts: Vec::new(),
            crash_of,
        }
    }

    fn invoke(&mut self, input: M::Input) -> usize {
        self.now += 1;
        self.history.push(Operation { input, invoked_at: self.now, outcome: Outcome::Unknown });
        self.history.len() - 1
    }

    /// One thing happens: a call, its effect, its answer or its loss, an effect without an answer.
    fn step(&mut self) {
        let client = self.dice.roll(self.calls.len() as u64) as usize;
        if !self.ghosts.is_empty() && self.dice.roll(20) == 0 {
            let at = self.dice.roll(self.ghosts.len() as u64) as usize;
            let ghost = self.ghosts.swap_remove(at);
            M::apply(&mut self.data, &ghost);
        }
        match self.calls[client].take() {
            None => {
                let input = M::ask(&mut self.dice, self.history.len() as u64 + 1);
                let call = self.invoke(input);
                self.calls[client] = Some((call, None));
            }
            Some((call, None)) => match self.crash_of.checked_sub(1).map(|_| self.dice.roll(self.crash_of)) {
                Some(0) if self.dice.roll(2) == 0 => self.history[call].outcome = Outcome::Failed,
                Some(0) => self.ghosts.push(self.history[call].input.clone()),
                _ => {
                    let output = M::apply(&mut self.data, &self.history[call].input);
                    self.calls[client] = Some((call, Some(output)));
                }
            },
            Some((call, Some(output))) => {
                let lost = self.crash_of > 0 && self.dice.roll(self.crash_of) == 0;
                self.now += 1;
                if !lost {
                    self.history[call].outcome = Outcome::Ok { output, at: self.now };
                }
            }
        }
    }

    fn steps(mut self, count: usize) -> Self {
        (0..count).for_each(|_| self.step());
        self
    }

    /// Everybody has the answer before anything else begins.
    fn quiet(mut self) -> Self {
        for client in 0..self.calls.len() {
            if let Some((call, output)) = self.calls[client].take() {
                let output =
                    output.unwrap_or_else(|| M::apply(&mut self.data, &self.history[call].input.clone()));
                self.now += 1;
                self.history[call].outcome = Outcome::Ok { output, at: self.now };
            }
        }
        self
    }

    /// One call with its answer, alone; the answer is the object's, or another.
    fn alone(mut self, input: M::Input, lie: impl FnOnce(&mut M::Data) -> Option<M::Output>) -> Self {
        let call = self.invoke(input);
        let told = lie(&mut self.data);
        let output = told.unwrap_or_else(|| M::apply(&mut self.data, &self.history[call].input));
        self.now += 1;
        self.history[call].outcome = Outcome::Ok { output, at: self.now };
        self
    }

    fn honest(self, input: M::Input) -> Self {
        self.alone(input, |_| None)
    }
}

fn accepts<M: Live>(what: &str, clients: usize, crash_of: u64) {
    let mut most = 0;
    for seed in 1..=40 {
        let run = Run::<M>::new(seed, clients, crash_of).steps(450);
        match linearizable(&run.history) {
            Ok(linearized) => most = most.max(linearized.steps),
            Err(fault) => panic!("{what}, seed {seed}: {fault}"),
        }
    }
    println!("{what}, {clients} clients, a crash of {crash_of}: {most} steps at most");
}

#[test]
fn what_a_correct_object_answers_is_accepted_however_calls_overlap_and_clients_crash() {
    for (clients, crash_of) in [(1, 0), (3, 0), (3, 4), (8, 20), (12, 100)] {
        accepts::<Register>("register", clients, crash_of);
        accepts::<Counter>("counter", clients, crash_of);
        accepts::<AppendList>("list", clients, crash_of);
    }
}

#[test]
fn a_long_round_of_many_objects_is_checked_in_a_few_steps_for_each_operation() {
    fn rounds<M: Live>(what: &str) {
        let (mut steps, mut operations) = (0, 0);
        for seed in 1..=12 {
            let run = Run::<M>::new(seed, 8, 200).steps(9000);
            let linearized = linearizable(&run.history).unwrap_or_else(|fault| panic!("{what}: {fault}"));
            steps += linearized.steps;
            operations += linearized.operations;
        }
        println!("{what}: 12 rounds, {operations} operations, {steps} steps");
        assert!(steps < 64 * operations);
    }
    rounds::<Register>("register");
    rounds::<Counter>("counter");
    rounds::<AppendList>("list");
}

/// Whether any order explains a history, by trying all of them.
fn any_order<M: Live>(history: &[Operation<M>], data: &M::Data, left: &[usize]) -> bool {
    let answered_at = |&at: &usize| match history[at].outcome {
        Outcome::Ok { at, .. } => Some(at),
        Outcome::Failed | Outcome::Unknown => None,
    };
    let Some(first) = left.iter().filter_map(answered_at).min() else { return true };
    left.iter().filter(|&&at| history[at].invoked_at <= first).any(|&at| {
        let mut data = data.clone();
        let output = M::apply(&mut data, &history[at].input);
        let right = match &history[at].outcome {
            Outcome::Ok { output: told, .. } => *told == output,
            Outcome::Failed => false,
            Outcome::Unknown => true,
        };
        let rest: Vec<usize> = left.iter().copied().filter(|&other| other != at).collect();
        right && any_order(history, &data, &rest)
    })
}

/// Small histories of which many are wrong: answers are those of an object, or of another moment.
fn agrees<M: Live>(what: &str, ask: fn(&mut Dice) -> M::Input) {
    let (mut right, mut wrong) = (0, 0);
    for seed in 1..=6000_u64 {
        let mut dice = Dice::new(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        let mut data = M::Data::default();
        let mut history: Vec<Operation<M>> = Vec::new();
        for _ in 0..2 + dice.roll(5) {
            let input = ask(&mut dice);
            let mut other = if dice.roll(6) == 0 { M::Data::default() } else { data.clone() };
            let output = M::apply(&mut other, &input);
            data = if dice.roll(6) == 0 { data } else { other };
            let invoked_at = dice.roll(8);
            let outcome = match dice.roll(5) {
                0 => Outcome::Unknown,
                4 if seed % 2 == 1 => Outcome::Unknown,
                1 if dice.roll(3) == 0 => Outcome::Failed,
                _ => Outcome::Ok { output, at: invoked_at + dice.roll(6) },
            };
            history.push(Operation { input, invoked_at, outcome });
        }
        let left: Vec<usize> = (0..history.len()).collect();
        let naive = any_order(&history, &M::Data::default(), &left);
        let found = linearizable(&history);
        assert_eq!(found.is_ok(), naive, "{what}, seed {seed}: {found:?}\n{history:#?}");
        if naive { right += 1 } else { wrong += 1 }
    }
    println!("{what}: {right} right, {wrong} wrong");
    assert!(right > 500 && wrong > 500, "both happen often: {right} and {wrong}");
}

#[test]
fn small_histories_are_judged_as_by_trying_all_orders() {
    agrees::<Register>("register", |dice| match dice.roll(3) {
        0 => RegisterInput::Read,
        1 => RegisterInput::Write(dice.roll(3)),
        _ => RegisterInput::Cas {
            expected: [None, Some(dice.roll(3))][dice.roll(2) as usize],
            new: dice.roll(4),
        },
    });
    agrees::<Counter>("counter", |dice| [CounterInput::Increment, CounterInput::Read][dice.roll(2) as usize]);
    agrees::<AppendList>("list", |dice| {
        if dice.roll(2) == 0 { ListInput::Read } else { ListInput::Append(dice.roll(4)) }
    });
}

/// A fault is planted after a random round with crashes; what comes after it is right again.
fn rejects<M: Live>(crash_of: u64, plant: fn(Run<M>) -> Run<M>) {
    for seed in 1..=60 {
        let run = plant(Run::new(seed, 4, crash_of).steps(300).quiet()).steps(100);
        let fault = linearizable(&run.history).expect_err("the fault must be found");
        assert!(matches!(fault, Fault::NotLinearizable { .. }), "seed {seed}: {fault}");
    }
}

const A: u64 = 1_000_001;
const B: u64 = 1_000_002;

#[test]
fn a_write_that_was_acknowledged_and_lost_is_found() {
    rejects::<Register>(20, |run| {
        let run = run.honest(RegisterInput::Write(A));
        run.alone(RegisterInput::Write(B), |_| Some(RegisterOutput::Written)).honest(RegisterInput::Read)
    });
    rejects::<Counter>(20, |run| {
        let run = run.honest(CounterInput::Increment);
        run.alone(CounterInput::Increment, |data| Some(*data + 1)).honest(CounterInput::Increment)
    });
    rejects::<AppendList>(20, |run| {
        let lost = run.alone(ListInput::Append(A), |_| Some(ListOutput::Appended));
        lost.honest(ListInput::Append(B)).honest(ListInput::Read)
    });
}

#[test]
fn an_acknowledgement_before_the_sync_is_found_after_the_crash() {
    /// What was acknowledged since the last sync goes with the crash; clients read then what is there.
    fn crash<M: Live>(run: Run<M>, writes: [M::Input; 2], read: M::Input) -> Run<M> {
        let synced = run.data.clone();
        let [first, second] = writes;
        let mut run = run.honest(first).honest(second);
        run.data = synced;
        run.honest(read)
    }
    rejects::<Register>(20, |run| {
        let run = run.honest(RegisterInput::Write(A));
        crash(run, [RegisterInput::Write(B), RegisterInput::Write(B + 1)], RegisterInput::Read)
    });
    rejects::<Counter>(0, |run| {
        crash(run, [CounterInput::Increment, CounterInput::Increment], CounterInput::Read)
    });
    rejects::<AppendList>(20, |run| {
        let run = crash(run, [ListInput::Append(A), ListInput::Append(B)], ListInput::Read);
        run.honest(ListInput::Append(B + 1)).honest(ListInput::Read)
    });
}

#[test]
fn a_stale_read_after_a_move_is_found() {
    rejects::<Register>(20, |run| {
        let run = run.honest(RegisterInput::Write(A)).honest(RegisterInput::Write(B));
        let run = run.alone(RegisterInput::Read, |_| Some(RegisterOutput::Value(Some(A))));
        run.honest(RegisterInput::Read)
    });
    rejects::<Counter>(20, |run| {
        let run = run.honest(CounterInput::Increment);
        run.alone(CounterInput::Read, |data| Some(*data - 1))
    });
    rejects::<AppendList>(20, |run| {
        let run = run.honest(ListInput::Append(A));
        let stale = |data: &mut Vec<u64>| Some(ListOutput::All(data[..data.len() - 1].to_vec()));
        run.alone(ListInput::Read, stale).honest(ListInput::Append(B)).honest(ListInput::Read)
    });
}

#[test]
fn an_effect_that_happens_twice_is_found() {
    // Without calls of unknown outcome: one of those would explain it.
    rejects::<Counter>(0, |run| {
        let twice = |data: &mut u64| {
            *data += 2;
            Some(*data - 1)
        };
        run.alone(CounterInput::Increment, twice).honest(CounterInput::Read)
    });
    rejects::<AppendList>(20, |run| {
        let twice = |data: &mut Vec<u64>| {
            data.extend([A, A]);
            Some(ListOutput::Appended)
        };
        run.alone(ListInput::Append(A), twice).honest(ListInput::Read)
    });
    rejects::<Register>(20, |run| {
        let run = run.honest(RegisterInput::Write(A)).honest(RegisterInput::Write(B));
        // The write of A comes again, as that of a client which had no answer and whose call was repeated.
        let again = |data: &mut Option<u64>| {
            *data = Some(A);
            Some(RegisterOutput::Value(Some(A)))
        };
        run.alone(RegisterInput::Read, again)
    });
}

#[test]
fn appends_in_another_order_are_found() {
    rejects::<AppendList>(20, |run| {
        let run = run.honest(ListInput::Append(A)).honest(ListInput::Append(B));
        let swapped = |data: &mut Vec<u64>| {
            let length = data.len();
            data.swap(length - 1, length - 2);
            None
        };
        run.alone(ListInput::Read, swapped)
    });
}

#[test]
fn objects_are_checked_one_by_one_and_the_wrong_one_is_named() {
    let right = Run::<Counter>::new(1, 3, 9).steps(100).history;
    let wrong = Run::<Counter>::new(2, 3, 0).steps(50).quiet();
    let wrong = wrong.alone(CounterInput::Read, |_| Some(0)).history;
    let all =
        right.iter().map(|operation| ("right", operation)).chain(wrong.iter().map(|one| ("wrong", one)));
    let owned = all.map(|(object, operation)| (object, operation.clone()));
    let (object, fault) = each_linearizable(owned).unwrap_err();
    assert_eq!(object, "wrong");
    assert!(fault.to_string().contains("no order of the operations"), "{fault}");
}

#[test]
fn increments_are_counted_without_a_search() {
    let run = Run::<Counter>::new(7, 5, 10).steps(2000).quiet();
    assert_eq!(increments_add_up(&run.history, run.data), Ok(()));
    assert_eq!(increments_differ(&run.history), Ok(()));
    let few = increments_add_up(&run.history, 3);
    assert!(matches!(few, Err(Wrong::Lost { value: 3, .. })));
    assert!(matches!(increments_add_up(&run.history, 1 << 40), Err(Wrong::Twice { .. })));
    let same = run.alone(CounterInput::Increment, |data| Some(*data)).history;
    let run = Run::<Counter>::new(8, 1, 0).honest(CounterInput::Increment);
    let twice = run.alone(CounterInput::Increment, |data| Some(*data));
    assert_eq!(increments_differ(&twice.history), Err(Wrong::SameValue(1)));
    assert!(linearizable(&same).is_err());
}

#[test]
fn owners_take_turns_and_one_that_comes_late_is_found() {
    let entry = |object: char, epoch: u64, seq: u64| Owned { object, epoch, seq };
    let log = [entry('a', 1, 1), entry('b', 4, 1), entry('a', 1, 2), entry('a', 3, 1), entry('b', 4, 2)];
    assert_eq!(owners_take_turns(&log), Ok(()));
    let late = [log.as_slice(), &[entry('a', 1, 3)]].concat();
    let found = owners_take_turns(&late).unwrap_err();
    assert_eq!(
        found.to_string(),
        "object 'a' has epoch 1, seq 3 in the log after epoch 3, seq 1: an old owner wrote"
    );
    let same = [log.as_slice(), &[entry('b', 4, 2)]].concat();
    assert!(matches!(owners_take_turns(&same), Err(Wrong::SameEntry { epoch: 4, seq: 2, .. })));
}

#[test]
fn an_alarm_that_is_never_seen_is_lost_unless_another_took_its_place() {
    let set =
        |at: u64, due: Option<u64>| ("a", Alarm::Set { invoked_at: at, answered_at: Some(at + 1), due });
    let fired = |at: u64| ("a", Alarm::Fired { at });
    let check = |events: &[(&'static str, Alarm)]| alarms_fire(events, 5, 1000);
    assert_eq!(check(&[set(10, Some(100)), fired(103)]), Ok(()));
    let lost = Wrong::LostAlarm { object: "\"a\"".to_owned(), set_at: 11, due: 100, until: 105 };
    assert_eq!(check(&[set(10, Some(100))]), Err(lost.clone()));
    assert_eq!(check(&[set(10, Some(100)), fired(106)]), Err(lost.clone()), "too late");
    assert_eq!(check(&[set(10, Some(100)), set(50, None)]), Ok(()), "taken away");
    assert_eq!(check(&[set(5, None), set(10, Some(100))]), Err(lost), "taken away before it was set");
    assert_eq!(check(&[set(10, Some(100)), set(50, Some(200)), fired(200)]), Ok(()));
    assert!(check(&[set(10, Some(100)), set(50, Some(200)), fired(100)]).is_err(), "the second is lost");
    let unknown = ("a", Alarm::Set { invoked_at: 50, answered_at: None, due: None });
    assert_eq!(check(&[set(10, Some(100)), unknown]), Ok(()), "it may have been taken away");
    assert_eq!(check(&[set(10, Some(998))]), Ok(()), "the watch ended before");
    assert_eq!(check(&[set(60, Some(20)), fired(62)]), Ok(()), "set for the past, it is due at once");
    let early = Wrong::EarlyAlarm { object: "\"a\"".to_owned(), at: 99 };
    assert_eq!(check(&[set(10, Some(100)), fired(99), fired(100)]), Err(early));
}
