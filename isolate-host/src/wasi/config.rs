//! `wasi:config/store`: the script's variables, and its secrets for who knows their names.

use crate::bindings::wasi::config::store;
use crate::guest::Guest;

impl store::Host for Guest {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        let variable = self.world.variables().iter().find(|(name, _)| *name == key);
        let value = variable.map(|(_, value)| value.clone());
        Ok(Ok(value.or_else(|| self.world.secret(&key))))
    }

    /// Without the secrets: whatever prints all it finds does not print them.
    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, store::Error>> {
        Ok(Ok(self.world.variables().to_vec()))
    }
}
