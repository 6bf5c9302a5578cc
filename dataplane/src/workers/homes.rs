//! Where the objects live that have hosts, for connections that have just begun.

use berth_protocol::object::ObjectKey;

use super::Workers;
use crate::http::target::Host;
use crate::quic::Homes;

impl Homes for Workers {
    fn any(&self) -> bool {
        self.zones.hosts().has_objects()
    }

    fn core(&self, host: &Host<'_>) -> Option<u16> {
        let found = self.zones.hosts().object(host)?;
        let id = self.objects.id(&found.zone.name, &found.class.code.name, &found.name)?;
        self.objects.core(&ObjectKey { scope: found.class.scope, id })
    }
}
