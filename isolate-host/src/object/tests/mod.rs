//! Objects in their sandboxes: the class of `tests/guests/object`, which has a subject for each rule.

mod limits;
mod overlay;
mod place;
mod turns;
mod uploads;
