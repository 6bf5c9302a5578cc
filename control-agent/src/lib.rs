//! The control agent keeps steering tables, directory and policies in step with desired state.
//!
//! A pure planner turns desired state into table writes; an executor makes them real. It never
//! runs guest code and never sees a request. The first part, the supervisor of the XDP programs,
//! arrives with steering; until then this crate holds the place, so that the dependency direction
//! of the workspace is fixed from the first day.
#![forbid(unsafe_code)]
