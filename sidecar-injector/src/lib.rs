//! What a pod, or any host, needs to run an Envoy of the mesh.
