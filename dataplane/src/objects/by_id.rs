//! Objects by their ids, as guests of their zone ask for them.
//!
//! An id does not say which class its object is of, and alone it reaches nothing: the key of an object has zone and class as
//! well. So the object is looked for under each class of the guest's own zone, and an id of another zone finds nothing.

use std::sync::Arc;

use berth_isolate_host::Outbound;
use berth_protocol::object::{IdKind, ObjectId, ObjectKey};
use berth_protocol::record::Space;
use berth_store::{ReadError, Store};

use super::ask::Which;
use super::start::NAME_KEY;
use crate::http::message::{Problem, Reply};
use crate::workers::{Context, CoreWorkers};
use crate::zones::{Class, Zone};

/// An object that was looked for.
struct Found {
    class: Arc<Class>,
    name: Option<String>,
}

impl CoreWorkers {
    /// Answers a guest's request to the object of its zone that has this id.
    pub(crate) async fn ask_object_by_id(
        &self,
        id: &str,
        request: Outbound,
        context: &Arc<Context>,
    ) -> Reply {
        let Ok(id) = id.parse::<ObjectId>() else { return Reply::problem(Problem::NoObject) };
        match self.look_for(&context.zone, id).await {
            Ok(Some(Found { class, name })) => {
                let which = Which::Id(id, name.as_deref());
                self.ask_object_of(&context.zone, &class, which, request, context).await
            }
            Ok(None) => Reply::problem(Problem::NoObject),
            Err(problem) => Reply::problem(problem),
        }
    }

    /// The class and name of the object with this id: one that has stored something, or lives.
    async fn look_for(&self, zone: &Zone, id: ObjectId) -> Result<Option<Found>, Problem> {
        let node = &self.objects.node;
        let opened = node.opened().ok_or(Problem::Overload)?;
        let classes: Vec<Arc<Class>> = zone.classes().cloned().collect();
        let keys: Vec<ObjectKey> = classes.iter().map(|class| ObjectKey { scope: class.scope, id }).collect();
        let store = opened.store.clone();
        let stored = opened.readers.run(move || stored_of(&store, &keys)).await;
        let (place, name) = match stored {
            Some(Ok(Some((place, name)))) => (place, name),
            Some(Ok(None)) => {
                let lives = |class: &Arc<Class>| node.core(&ObjectKey { scope: class.scope, id }).is_some();
                let Some(place) = classes.iter().position(lives) else { return Ok(None) };
                (place, None)
            }
            Some(Err(error)) => {
                tracing::error!(%id, %error, "object.unreadable");
                return Err(Problem::Internal);
            }
            None => return Err(Problem::Overload),
        };
        Ok(Some(Found { class: Arc::clone(&classes[place]), name }))
    }
}

/// Which of these has stored something, and its name. On a thread that may wait.
fn stored_of(store: &Store, keys: &[ObjectKey]) -> Result<Option<(usize, Option<String>)>, ReadError> {
    for (place, key) in keys.iter().enumerate() {
        if store.row(*key)?.is_some() {
            let name = store.get(*key, Space::Meta, NAME_KEY)?;
            let name = name.map(|name| String::from_utf8_lossy(&name).into_owned());
            return Ok(Some((place, name)));
        }
    }
    Ok(None)
}

/// Whether an object may start for a message that does not know its name. One whose id comes from a name has stored it with
/// the first that it wrote; without that it would be one that never learns its name.
pub(super) fn may_start_without_a_name(id: ObjectId, has_stored: bool) -> bool {
    has_stored || id.kind() == IdKind::Random
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::Slot;

    use super::*;

    #[test]
    fn an_object_with_a_name_starts_by_its_id_only_if_it_has_stored_that() {
        let named = ObjectId::named(&[1; 32], "a", "B", "c");
        let random = ObjectId::random(Slot(1), [7; 13]);
        let may = |id| [false, true].map(|has_stored| may_start_without_a_name(id, has_stored));
        assert_eq!((may(named), may(random)), ([false, true], [true, true]));
    }
}
