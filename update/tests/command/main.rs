//! The command and its registry client, against a real registry and a hostile server; all on the loopback interface.

mod certificates;
mod commands;
mod completion;
mod docker_registry;
mod hostile;
mod images;
mod json_forms;
mod layout;
mod list_all;
mod logins;
mod malicious;
mod man_pages;
mod mirrors;
mod odd_places;
mod peer_table;
mod place;
mod platforms;
mod proxies;
mod real;
mod repo;
mod repository_options;
mod server;
mod streams;
mod transports;
