//! Against Debian's docker-registry, filled by skopeo.
