//! Why an object is kept: the shortest way from a root to it.

use std::collections::{HashMap, HashSet, VecDeque};

use super::gc::{MarkError, Referrer, Root};
use super::link::REFS;
use super::{Namespace, RefError, Repository};
use crate::digest::Digest;

/// One step on the way from a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyStep {
    /// A ref, a first-level name, the label of a named ref, or a reason outside of the repository. `None`: an object
    /// that the step before consists of or needs for a file.
    pub label: Option<String>,
    /// The object, unless the step is a ref or a reason.
    pub digest: Option<Digest>,
}

/// What needs an object.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Why {
    /// From the root to the object; empty if nothing needs it.
    pub steps: Vec<WhyStep>,
    /// What could not be looked through, and why. It may be what needs the object, unless there are steps.
    pub unreadable: Vec<(String, MarkError)>,
}

struct Node {
    before: Option<usize>,
    step: WhyStep,
}

impl Repository {
    /// Finds out why the next collection with these further roots will keep an object: the shortest way to it.
    ///
    /// # Errors
    /// When the refs cannot be read. What is damaged is passed over and reported.
    pub fn why(&self, object: &Digest, extra_roots: &[Root]) -> Result<Why, RefError> {
        let mut referrers: HashMap<Digest, Vec<(String, Digest)>> = HashMap::new();
        let mut search = Search { nodes: Vec::new(), pending: VecDeque::new(), seen: HashSet::new() };
        for namespace in [Namespace::Streams, Namespace::Images] {
            let directory = namespace.directory();
            for (name, target) in self.refs(namespace)? {
                let Some(digest) = self.first_level(namespace, &target)? else { continue };
                let path = format!("{directory}/{REFS}/{name}");
                match self.subject_of_ref(namespace, &name)? {
                    Referrer::No => search.add_root(path, format!("{directory}/{target}"), digest),
                    Referrer::Of(subject) => referrers.entry(subject).or_default().push((path, digest)),
                    Referrer::OfNothing => {}
                }
            }
        }
        for root in extra_roots {
            for (path, digest) in self.objects_of_root(&root.name)? {
                search.add_root(root.reason.clone(), path, digest);
            }
        }
        let mut why = Why::default();
        while let Some((node, digest)) = search.pending.pop_front() {
            if digest == *object {
                why.steps = search.way_to(node);
                break;
            }
            for (path, digest) in referrers.remove(&digest).unwrap_or_default() {
                search.add(Some(node), Some(path), digest);
            }
            match self.references(digest) {
                Ok(found) => {
                    let named = found.named.into_iter().map(|(label, digest)| (Some(label), digest));
                    let objects = found.objects.into_iter().map(|digest| (None, digest));
                    for (label, digest) in named.chain(objects.filter(|(_, digest)| digest == object)) {
                        search.add(Some(node), label, digest);
                    }
                }
                Err(error) => {
                    let way = search.way_to(node);
                    let name = way.into_iter().filter_map(|step| step.label).collect::<Vec<_>>().join(": ");
                    why.unreadable.push((name, error));
                }
            }
        }
        Ok(why)
    }
}

/// A search in breadth, so that the first way is a shortest one.
struct Search {
    nodes: Vec<Node>,
    pending: VecDeque<(usize, Digest)>,
    seen: HashSet<Digest>,
}

impl Search {
    fn add_root(&mut self, root: String, name: String, digest: Digest) {
        if !self.seen.contains(&digest) {
            self.nodes.push(Node { before: None, step: WhyStep { label: Some(root), digest: None } });
            self.add(Some(self.nodes.len() - 1), Some(name), digest);
        }
    }

    fn add(&mut self, before: Option<usize>, label: Option<String>, digest: Digest) {
        if self.seen.insert(digest) {
            self.pending.push_back((self.nodes.len(), digest));
            self.nodes.push(Node { before, step: WhyStep { label, digest: Some(digest) } });
        }
    }

    fn way_to(&self, node: usize) -> Vec<WhyStep> {
        let nodes = std::iter::successors(Some(node), |node| self.nodes[*node].before);
        let mut steps: Vec<_> = nodes.map(|node| self.nodes[node].step.clone()).collect();
        steps.reverse();
        steps
    }
}
