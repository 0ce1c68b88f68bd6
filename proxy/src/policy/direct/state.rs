//! State handed from one version of a policy to the next, for policies that are called directly.

use std::sync::Arc;

use wasmtime::{Instance, Store, TypedFunc};

use super::heap::Heap;
use super::{Address, after, finish, no_case, required, word};
use crate::policy::host::HostState;

pub(in crate::policy) struct State {
    heap: Arc<Heap>,
    export: TypedFunc<(), Address>,
    import: TypedFunc<(u32, u32), Address>,
    after_export: Option<TypedFunc<Address, ()>>,
    after_import: Option<TypedFunc<Address, ()>>,
}

impl State {
    pub(super) fn of(
        instance: &Instance,
        store: &mut Store<HostState>,
        heap: &Arc<Heap>,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            heap: Arc::clone(heap),
            export: required(instance, store, "state", "export-state")?,
            import: required(instance, store, "state", "import-state")?,
            after_export: after(instance, store, "state", "export-state")?,
            after_import: after(instance, store, "state", "import-state")?,
        })
    }

    pub(in crate::policy) fn export(&self, store: &mut Store<HostState>) -> wasmtime::Result<Vec<u8>> {
        let at = self.export.call(&mut *store, ())?;
        let answer = self.heap.read::<8>(store, at, 4)?;
        let bytes = self.heap.bytes(&*store, word(&answer, 0), word(&answer, 4))?.to_vec();
        finish(self.after_export.as_ref(), store, at)?;
        Ok(bytes)
    }

    pub(in crate::policy) fn import(
        &self,
        store: &mut Store<HostState>,
        state: &[u8],
    ) -> wasmtime::Result<Result<(), String>> {
        let bytes = self.heap.put_bytes(&mut *store, state)?;
        let at = self.import.call(&mut *store, bytes)?;
        let answer = self.heap.read::<12>(store, at, 4)?;
        let answer = match answer[0] {
            0 => Ok(()),
            1 => Err(self.heap.text(&*store, word(&answer, 4), word(&answer, 8))?),
            case => return Err(no_case("import-state", case)),
        };
        finish(self.after_import.as_ref(), store, at)?;
        Ok(answer)
    }
}
