//! Who the object is.

use crate::world::berth::object::identity;

/// Who the object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// 32 hexadecimal digits.
    pub id: String,
    /// If its id comes from a name, as it does where a route has `:name`.
    pub name: Option<String>,
    /// The class that it is of.
    pub class: String,
    /// The zone that the class belongs to.
    pub zone: String,
    /// The number of its ownership. It only rises.
    pub epoch: u64,
    /// `version` of the class.
    pub schema_version: u32,
}

impl Identity {
    pub(crate) fn own() -> Self {
        let identity::Identity { id, name, class, zone, epoch, schema_version } = identity::get_identity();
        Self { id, name, class, zone, epoch, schema_version }
    }
}
