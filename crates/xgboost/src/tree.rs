//! Checks of one tree.

use servable_model::error::Result;

use crate::document::Value;
use crate::fields::{count, damage, field, integers, is_below, numbers, optional_count};

/// The maximum depth. `XGBoost` computes contributions by recursion.
const MAX_DEPTH: usize = 4096;
/// The end of categories in the library.
const MAX_CATEGORIES: usize = 1 << 24;
/// The maximum memory for the sets of categories of one tree, in bits: the library allocates one for each number below the
/// highest of a set.
const MAX_CATEGORY_BITS: usize = 1 << 33;

/// The properties of a model that its trees depend on.
pub(crate) struct Ensemble {
    /// The number of features.
    pub(crate) columns: usize,
    /// The number of results of a row.
    pub(crate) groups: usize,
    /// See [`crate::check::check`].
    pub(crate) needs_leaf_weights: bool,
}

/// Checks a tree, and returns the number of values of each leaf.
pub(crate) fn check_tree(tree: &Value<'_>, ensemble: &Ensemble) -> Result<usize> {
    let parameters = field(tree, "tree_param")?;
    let nodes = count(parameters, "num_nodes")?;
    if nodes == 0 {
        return Err(damage("num_nodes", "0", "1 or more"));
    }
    // Version 1.0 writes 0 for one value.
    let width = optional_count(parameters, "size_leaf_vector")?.unwrap_or(1).max(1);
    let [lefts, rights, parents, features] = [
        integers(tree, "left_children", nodes)?,
        integers(tree, "right_children", nodes)?,
        integers(tree, "parents", nodes)?,
        integers(tree, "split_indices", nodes)?,
    ];
    if let Some(parent) = parents[1..].iter().find(|&&parent| !is_below(parent, nodes)) {
        return Err(damage("parents", &parent.to_string(), &format!("less than {nodes}")));
    }
    numbers(tree, "split_conditions", nodes)?;
    numbers(tree, "default_left", nodes)?;
    let is_split = check_children(&lefts, &rights)?;
    let of_splits = features.iter().zip(&is_split).filter_map(|(feature, &is_split)| is_split.then_some(*feature));
    if let Some(feature) = of_splits.into_iter().find(|&feature| !is_below(feature, ensemble.columns)) {
        return Err(damage("split_indices", &feature.to_string(), &format!("less than {}", ensemble.columns)));
    }
    if width == 1 {
        for key in ["loss_changes", "sum_hessian", "base_weights"] {
            numbers(tree, key, nodes)?;
        }
    } else {
        if width != ensemble.groups {
            return Err(damage("size_leaf_vector", &width.to_string(), &ensemble.groups.to_string()));
        }
        check_leaves(tree, nodes, width, &lefts, &rights, ensemble)?;
    }
    if tree.get("split_type").is_some() {
        check_categories(tree, nodes, &is_split)?;
    }
    Ok(width)
}

/// Checks that each node has one parent, and returns which nodes are split. Nodes that no other leads to were deleted.
fn check_children(lefts: &[i64], rights: &[i64]) -> Result<Vec<bool>> {
    let (mut is_split, mut has_parent) = (vec![false; lefts.len()], vec![false; lefts.len()]);
    has_parent[0] = true;
    let mut open = vec![(0, 1)];
    while let Some((node, depth)) = open.pop() {
        if lefts[node] == -1 {
            continue;
        }
        is_split[node] = true;
        for (key, child) in [("left_children", lefts[node]), ("right_children", rights[node])] {
            let place = usize::try_from(child).ok();
            match place.and_then(|place| Some((place, has_parent.get_mut(place)?))) {
                Some((place, has_parent)) if !*has_parent && depth < MAX_DEPTH => {
                    *has_parent = true;
                    open.push((place, depth + 1));
                }
                _ => return Err(damage(key, &child.to_string(), "a tree of nodes")),
            }
        }
    }
    Ok(is_split)
}

/// Checks leaves with several values. Those of version 3.2 and later have them in an array, and their places in it among
/// the right children.
fn check_leaves(
    tree: &Value<'_>,
    nodes: usize,
    width: usize,
    lefts: &[i64],
    rights: &[i64],
    ensemble: &Ensemble,
) -> Result<()> {
    let weights = field(tree, "base_weights")?.numbers().unwrap_or_default();
    let Some(values) = tree.get("leaf_weights") else {
        if ensemble.needs_leaf_weights {
            return Err(damage("leaf_weights", "none", "those that XGBoost writes since version 3.2"));
        }
        return numbers(tree, "base_weights", nodes * width);
    };
    for key in ["loss_changes", "sum_hessian"] {
        numbers(tree, key, nodes)?;
    }
    if weights == 0 || !weights.is_multiple_of(nodes) {
        return Err(damage("base_weights", &format!("{weights} numbers"), &format!("some for each of {nodes} nodes")));
    }
    let values = values.numbers().unwrap_or_default();
    if !values.is_multiple_of(width) {
        return Err(damage("leaf_weights", &format!("{values} numbers"), &format!("{width} for each leaf")));
    }
    let mut places = lefts.iter().zip(rights).filter_map(|(&left, &right)| (left == -1).then_some(right));
    match places.find(|&place| !is_below(place, values / width)) {
        Some(place) => Err(damage("right_children", &place.to_string(), "the place of the values of a leaf")),
        None => Ok(()),
    }
}

/// Checks the sets of categories of nodes.
fn check_categories(tree: &Value<'_>, nodes: usize, is_split: &[bool]) -> Result<()> {
    let kinds = integers(tree, "split_type", nodes)?;
    if let Some(kind) = kinds.iter().find(|&&kind| !is_below(kind, 2)) {
        return Err(damage("split_type", &kind.to_string(), "0 or 1"));
    }
    let sets = field(tree, "categories_nodes")?.integers().unwrap_or_default();
    let begins = integers(tree, "categories_segments", sets.len())?;
    let sizes = integers(tree, "categories_sizes", sets.len())?;
    let categories = field(tree, "categories")?.integers().unwrap_or_default();
    let mut has_set = vec![false; nodes];
    let (mut next, mut bits) = (0, 0);
    for ((&node, begin), size) in sets.iter().zip(begins).zip(sizes) {
        if node < next || !is_below(node, nodes) {
            return Err(damage("categories_nodes", &node.to_string(), &format!("growing numbers below {nodes}")));
        }
        next = node + 1;
        has_set[node as usize] = true;
        let range = usize::try_from(begin).ok().zip(usize::try_from(size).ok());
        let set = range.and_then(|(begin, size)| categories.get(begin..begin.checked_add(size)?));
        let Some(set) = set.filter(|set| !set.is_empty()) else {
            let wanted = format!("some of {}", categories.len());
            return Err(damage("categories_segments", &format!("{size} categories at {begin}"), &wanted));
        };
        if let Some(category) = set.iter().find(|&&category| !is_below(category, MAX_CATEGORIES)) {
            return Err(damage("categories", &category.to_string(), &format!("less than {MAX_CATEGORIES}")));
        }
        bits += set.iter().max().map_or(0, |&highest| highest as usize);
    }
    if bits > MAX_CATEGORY_BITS {
        return Err(damage("categories", &format!("sets of {bits} bits"), &format!("at most {MAX_CATEGORY_BITS}")));
    }
    let mut wanting = kinds.iter().zip(is_split).zip(&has_set);
    match wanting.position(|((&kind, &is_split), &has_set)| kind == 1 && is_split && !has_set) {
        Some(node) => Err(damage("categories_nodes", "none", &format!("one for node {node}"))),
        None => Ok(()),
    }
}
