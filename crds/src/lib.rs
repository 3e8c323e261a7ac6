//! The user's API: App Mesh's kinds and Route.
