//! Checks of the document of a model.
//!
//! `XGBoost` trusts what it reads: an index that is out of range reads other memory, and a cycle never ends.

use servable_model::error::{Result, ServingError};

use crate::document::Value;
use crate::fields::{count, damage, field, integers, is_below, numbers, optional_count};
use crate::tree::{Ensemble, check_tree};

/// The maximum number of results of a row. The library allocates as many, whatever the file has.
const MAX_GROUPS: usize = 1 << 20;

/// Checks a model in JSON or UBJSON.
///
/// # Arguments
///
/// * `needs_leaf_weights` - Whether the library reads the values of leaves with several results from a field of their
///   own: it does from version 3.2 on, and crashes without the field.
///
/// # Errors
///
/// `DATA_LOSS` with the place of the damage.
pub(crate) fn check(file: &[u8], is_json: bool, needs_leaf_weights: bool) -> Result<()> {
    let document = if is_json { Value::of_json(file) } else { Value::of_ubjson(file) }?;
    let learner = field(&document, "learner")?;
    let parameters = field(learner, "learner_model_param")?;
    let columns = count(parameters, "num_feature")?;
    let classes = optional_count(parameters, "num_class")?.unwrap_or(0);
    let groups = classes.max(optional_count(parameters, "num_target")?.unwrap_or(1)).max(1);
    if groups > MAX_GROUPS {
        return Err(damage("num_class and num_target", &groups.to_string(), &format!("at most {MAX_GROUPS}")));
    }
    if let Some(softmax) = learner.get("objective").and_then(|objective| objective.get("softmax_multiclass_param")) {
        let of_objective = count(softmax, "num_class")?;
        if of_objective == 0 || of_objective != classes {
            let found = format!("{of_objective} in the objective");
            return Err(damage("num_class", &found, &format!("{classes} as in the model")));
        }
    }
    let booster = field(learner, "gradient_booster")?;
    let ensemble = Ensemble { columns, groups, needs_leaf_weights };
    match field(booster, "name")?.text() {
        Some(b"gbtree") => check_trees(field(booster, "model")?, &ensemble).map(drop),
        Some(b"dart") => {
            let trees = check_trees(field(field(booster, "gbtree")?, "model")?, &ensemble)?;
            numbers(booster, "weight_drop", trees)
        }
        Some(b"gblinear") => {
            let model = field(booster, "model")?;
            let wanted = columns.saturating_add(1).saturating_mul(groups);
            if field(model, "weights")?.numbers() == Some(0) { Ok(()) } else { numbers(model, "weights", wanted) }
        }
        _ => Ok(()), // which the library reports
    }
}

/// Checks all trees, and returns their number.
fn check_trees(model: &Value<'_>, ensemble: &Ensemble) -> Result<usize> {
    let parameters = field(model, "gbtree_model_param")?;
    let wanted = count(parameters, "num_trees")?;
    let parallel = optional_count(parameters, "num_parallel_tree")?.unwrap_or(1);
    if parallel.saturating_mul(ensemble.groups) > i32::MAX as usize {
        return Err(damage("num_parallel_tree", &parallel.to_string(), "fewer trees"));
    }
    let trees = field(model, "trees")?.list().unwrap_or_default();
    if trees.len() != wanted {
        return Err(damage("trees", &trees.len().to_string(), &format!("{wanted}, which is num_trees")));
    }
    if let Some(group) =
        integers(model, "tree_info", wanted)?.into_iter().find(|&group| !is_below(group, ensemble.groups))
    {
        return Err(damage("tree_info", &group.to_string(), &format!("0 to {}", ensemble.groups - 1)));
    }
    match model.get("iteration_indptr") {
        Some(starts) => check_starts("iteration_indptr", &starts.integers().unwrap_or_default(), wanted)?,
        None if wanted == 0 => return Err(damage("trees", "0", "1 or more")),
        None => {}
    }
    let mut has_tree = vec![false; wanted];
    let mut width = None;
    for tree in trees {
        let id = match field(tree, "id")? {
            Value::Integer(id) => *id,
            _ => return Err(damage("id", "no integer", "the number of a tree")),
        };
        match usize::try_from(id).ok().and_then(|id| has_tree.get_mut(id)) {
            Some(has_tree) if !*has_tree => *has_tree = true,
            _ => return Err(damage("id", &id.to_string(), "the number of another tree")),
        }
        let found = check_tree(tree, ensemble)
            .map_err(|error| ServingError::new(error.code, format!("tree {id}: {}", error.text())))?;
        if *width.get_or_insert(found) != found {
            return Err(damage(&format!("tree {id}: size_leaf_vector"), &found.to_string(), "that of the other trees"));
        }
    }
    if let Some(categories) = model.get("cats") {
        check_categories(categories)?;
    }
    Ok(wanted)
}

/// Checks the categories of all features: their strings, and their place among those of all features.
fn check_categories(all: &Value<'_>) -> Result<()> {
    let mut total = 0;
    let mut starts = vec![0];
    let features = field(all, "enc")?.list().unwrap_or_default();
    for feature in features {
        let values = field(feature, "values")?.numbers().ok_or_else(|| damage("values", "no numbers", "an array"))?;
        total += match feature.get("offsets") {
            Some(offsets) => match offsets.integers() {
                Some(offsets) if offsets.is_empty() => 0,
                Some(offsets) => {
                    check_starts("offsets", &offsets, values)?;
                    offsets.len() - 1
                }
                None => return Err(damage("offsets", "no integers", "an array")),
            },
            None => values,
        };
        starts.push(total as i64);
    }
    let found = field(all, "feature_segments")?.integers();
    if !found.is_some_and(|found| found == starts || (found.is_empty() && total == 0)) {
        return Err(damage("feature_segments", "other numbers", &format!("the starts of {total} categories")));
    }
    let order = integers(all, "sorted_idx", total)?;
    match order.into_iter().find(|&place| !is_below(place, total)) {
        Some(place) => Err(damage("sorted_idx", &place.to_string(), &format!("less than {total}"))),
        None => Ok(()),
    }
}

/// Checks that numbers are the starts of adjacent parts, from 0 to the end.
fn check_starts(key: &str, starts: &[i64], end: usize) -> Result<()> {
    let grow = starts.windows(2).all(|pair| pair[0] <= pair[1]);
    if grow && starts.first() == Some(&0) && starts.last().is_some_and(|&last| usize::try_from(last) == Ok(end)) {
        return Ok(());
    }
    Err(damage(key, &format!("{} numbers", starts.len()), &format!("growing numbers from 0 to {end}")))
}

#[cfg(test)]
mod tests {
    use servable_model::error::Code;

    use super::*;

    /// A tree with a split by number and one by category, and a deleted node.
    const TREE: &str = r#"{"id": 0, "tree_param": {"num_nodes": "6", "num_feature": "2", "size_leaf_vector": "1"},
        "left_children": [1, -1, 3, -1, -1, -1], "right_children": [2, -1, 4, -1, -1, -1],
        "parents": [2147483647, 0, 0, 2, 2, 0], "split_indices": [0, 0, 1, 0, 0, 2147483647],
        "split_conditions": [5E-1, 1E0, NaN, 2E0, 3E0, 0E0], "default_left": [1, 0, 0, 0, 0, 1],
        "loss_changes": [1E0, 0E0, 1E0, 0E0, 0E0, 0E0], "sum_hessian": [4E0, 1E0, 3E0, 2E0, 1E0, 0E0],
        "base_weights": [0E0, 0E0, 0E0, 0E0, 0E0, 0E0], "split_type": [0, 0, 1, 0, 0, 0], "categories_nodes": [2],
        "categories_segments": [0], "categories_sizes": [2], "categories": [0, 7]}"#;
    /// One of leaves with two values.
    const WIDE_TREE: &str = r#"{"id": 0, "tree_param": {"num_nodes": "3", "size_leaf_vector": "2"},
        "left_children": [1, -1, -1], "right_children": [2, 0, 1], "parents": [-1, 0, 0], "split_indices": [1, 0, 0],
        "split_conditions": [0E0, 0E0, 0E0], "default_left": [0, 0, 0], "base_weights": [0E0, 0E0, 0E0, 0E0, 0E0, 0E0],
        "loss_changes": [1E0, 0E0, 0E0], "sum_hessian": [1E0, 1E0, 1E0], "leaf_weights": [1E0, 2E0, 3E0, 4E0]}"#;
    const CATEGORIES: &str = r#"{"enc": [{"offsets": [0, 1, 3], "values": [97, 98, 99]}, {"type": 15, "values": [7]},
        {"offsets": [], "values": []}], "feature_segments": [0, 2, 3, 3], "sorted_idx": [0, 1, 0]}"#;

    fn model(tree: &str, groups: u32) -> String {
        format!(
            r#"{{"learner": {{"learner_model_param": {{"num_feature": "2", "num_class": "0", "num_target": "{groups}"}},
            "objective": {{"name": "reg:squarederror"}},
            "gradient_booster": {{"name": "gbtree", "model": {{
            "gbtree_model_param": {{"num_trees": "1", "num_parallel_tree": "1"}}, "tree_info": [0],
            "iteration_indptr": [0, 1], "trees": [{tree}], "cats": {CATEGORIES}}}}}}}, "version": [3, 2, 0]}}"#
        )
    }

    fn linear(weights: &str) -> String {
        format!(
            r#"{{"learner": {{"learner_model_param": {{"num_feature": "2", "num_class": "3"}},
            "objective": {{"softmax_multiclass_param": {{"num_class": "3"}}}},
            "gradient_booster": {{"name": "gblinear", "model": {{"weights": [{weights}]}}}}}}}}"#
        )
    }

    const WEIGHTS: &str = "1E0, 1E0, 1E0, 1E0, 1E0, 1E0, 1E0, 1E0, 1E0";

    #[test]
    fn sound_models_are_accepted() {
        let without_leaf_weights = WIDE_TREE.replace("leaf_weights", "other");
        for (text, needs_leaf_weights) in [
            (model(TREE, 1), true),
            (model(WIDE_TREE, 2), true),
            (model(&without_leaf_weights, 2), false),
            (model(TREE, 1).replace(r#""iteration_indptr": [0, 1],"#, ""), true),
            (model(TREE, 1).replace("[1, 0, 0, 0, 0, 1]", "[true, false, false, false, false, true]"), true),
            (model(TREE, 1).replace(r#""name": "gbtree", "model": {"#, r#""name": "unknown", "model": {"#), true),
            (linear(WEIGHTS), true),
            (linear(""), true),
        ] {
            check(text.as_bytes(), true, needs_leaf_weights).expect(&text);
        }
        let error = check(model(&without_leaf_weights, 2).as_bytes(), true, true).expect_err("the library needs them");
        assert_eq!(error.text(), "tree 0: leaf_weights: got none, want those that XGBoost writes since version 3.2");
    }

    #[test]
    fn damage_is_named() {
        for (text, sound, damage, complaint) in [
            (model(TREE, 1), "[1, -1, 3", "[6, -1, 3", "tree 0: left_children: got 6, want a tree of nodes"),
            (model(TREE, 1), "[1, -1, 3", "[-2, -1, 3", "tree 0: left_children: got -2, want a tree of nodes"),
            (model(TREE, 1), "[2, -1, 4", "[0, -1, 4", "tree 0: right_children: got 0, want a tree of nodes"),
            (model(TREE, 1), "[2, -1, 4", "[2, -1, 1", "tree 0: right_children: got 1, want a tree of nodes"),
            (model(TREE, 1), "-1, -1, -1],", "-1, -1],", "tree 0: left_children: got 5 numbers, want 6"),
            (model(TREE, 1), "0, 0, 2, 2, 0]", "0, 0, 2, 9, 0]", "tree 0: parents: got 9, want less than 6"),
            (model(TREE, 1), "[0, 0, 1, 0", "[0, 0, 2, 0", "tree 0: split_indices: got 2, want less than 2"),
            (model(TREE, 1), "3E0, 0E0]", "3E0]", "tree 0: split_conditions: got 5 numbers, want 6"),
            (model(TREE, 1), "sum_hessian", "sum", "tree 0: sum_hessian: got none or several, want one"),
            (model(TREE, 1), "\"6\"", "\"-6\"", "tree 0: num_nodes: got \"-6\", want a number in quotes"),
            (
                model(TREE, 1),
                "[0, 0, 1, 0, 0, 0], \"c",
                "[0, 0, 2, 0, 0, 0], \"c",
                "tree 0: split_type: got 2, want 0 or 1",
            ),
            (model(TREE, 1), "nodes\": [2]", "nodes\": [9]", "tree 0: categories_nodes: got 9, want growing"),
            (model(TREE, 1), "nodes\": [2]", "nodes\": [1]", "tree 0: categories_nodes: got none, want one for node 2"),
            (model(TREE, 1), "sizes\": [2]", "sizes\": [3]", "tree 0: categories_segments: got 3 categories at 0"),
            (model(TREE, 1), "sizes\": [2]", "sizes\": [0]", "tree 0: categories_segments: got 0 categories at 0"),
            (model(TREE, 1), "[0, 7]", "[0, -7]", "tree 0: categories: got -7, want less than 16777216"),
            (model(TREE, 1), "\"id\": 0", "\"id\": 1", "id: got 1, want the number of another tree"),
            (model(TREE, 1), "info\": [0]", "info\": [1]", "tree_info: got 1, want 0 to 0"),
            (model(TREE, 1), "indptr\": [0, 1]", "indptr\": []", "iteration_indptr: got 0 numbers, want growing"),
            (
                model(TREE, 1),
                "indptr\": [0, 1]",
                "indptr\": [0, 2, 1]",
                "iteration_indptr: got 3 numbers, want growing",
            ),
            (model(TREE, 1), "trees\": \"1", "trees\": \"2", "trees: got 1, want 2, which is num_trees"),
            (
                model(TREE, 1),
                "target\": \"1",
                "target\": \"9999999",
                "num_class and num_target: got 9999999, want at most",
            ),
            (model(TREE, 1), "[0, 1, 3]", "[0, 9, 3]", "offsets: got 3 numbers, want growing numbers from 0 to 3"),
            (model(TREE, 1), "[0, 2, 3, 3]", "[0, 2, 3, 4]", "feature_segments: got other numbers"),
            (model(TREE, 1), "[0, 1, 0]}", "[0, 3, 0]}", "sorted_idx: got 3, want less than 3"),
            (model(WIDE_TREE, 2), "[2, 0, 1]", "[2, 0, 2]", "tree 0: right_children: got 2, want the place"),
            (model(WIDE_TREE, 2), "vector\": \"2", "vector\": \"3", "tree 0: size_leaf_vector: got 3, want 2"),
            (linear(WEIGHTS), "1E0, 1E0", "1E0", "weights: got 8 numbers, want 9"),
            (linear(WEIGHTS), "{\"num_class\": \"3", "{\"num_class\": \"0", "num_class: got 0 in the objective"),
        ] {
            assert!(text.contains(sound), "{sound}");
            let error = check(text.replacen(sound, damage, 1).as_bytes(), true, true).expect_err(damage);
            let found = error.text().into_owned();
            assert!(found.starts_with(complaint), "{damage}: {found}");
            assert_eq!(error.code, Code::DataLoss);
        }
    }

    #[test]
    fn a_chain_of_nodes_has_a_maximum_depth() {
        let join = |numbers: Vec<String>| numbers.join(", ");
        let chain = |depth: usize| {
            let nodes = 2 * depth + 1;
            let children =
                |offset: usize| {
                    join(
                        (0..nodes)
                            .map(|node| {
                                if node % 2 == 0 && node + 2 < nodes {
                                    (node + offset).to_string()
                                } else {
                                    "-1".into()
                                }
                            })
                            .collect(),
                    )
                };
            let same = |number: &str| join(vec![number.into(); nodes]);
            let (zeros, floats) = (same("0"), same("0E0"));
            let fields = ["split_conditions", "loss_changes", "sum_hessian", "base_weights"]
                .map(|key| format!(r#""{key}": [{floats}]"#))
                .join(", ");
            format!(
                r#"{{"id": 0, "tree_param": {{"num_nodes": "{nodes}"}}, "left_children": [{}], "right_children": [{}],
                "parents": [{zeros}], "split_indices": [{zeros}], "default_left": [{zeros}], {fields}}}"#,
                children(1),
                children(2)
            )
        };
        check(model(&chain(4000), 1).as_bytes(), true, true).expect("it is deep, but allowed");
        let error = check(model(&chain(5000), 1).as_bytes(), true, true).expect_err("it is too deep");
        assert!(error.text().ends_with("want a tree of nodes"), "{}", error.text());
    }
}
