//! Checks of the trees in the text of a model.
//!
//! `LightGBM` trusts them: an index that is out of range reads other memory, a cycle never ends, and a file that was cut
//! short ends the process.

use std::str::FromStr;

use servable_model::error::{Code, Result, ServingError};

use crate::header::{Header, TREE};

const END: &str = "end of trees";
/// The bits of a decision type.
const IS_CATEGORICAL: i32 = 1;
/// The maximum depth of a tree. `LightGBM` computes contributions by recursion.
const MAX_DEPTH: usize = 4096;

/// Checks all trees, and returns their number.
///
/// # Errors
///
/// `DATA_LOSS` with the place of the damage.
pub(crate) fn check(text: &str) -> Result<usize> {
    let header = Header::of(text);
    let columns = header.columns()?;
    let mut lines = text.lines().skip_while(|line| !line.starts_with(TREE));
    let (mut trees, mut end) = (0, "");
    while let Some(line) = lines.next() {
        if line.starts_with(TREE) {
            Tree::read(trees, &mut lines)?.check(columns)?;
            trees += 1;
        } else if !line.is_empty() {
            end = line;
            break;
        }
    }
    // Old formats have neither the sizes of trees nor an end.
    if let Some(wanted) = header.trees()
        && (trees != wanted || end != END)
    {
        return Err(damaged(format!("got {trees} trees before {end:?}, want {wanted} before {END:?}")));
    }
    if text.contains("\nparameters:") && !text.contains("\nend of parameters") {
        return Err(damaged("the parameters behind the trees have no end"));
    }
    if header.has_damaged_categories() {
        return Err(damaged("the categories behind the parameters are no JSON"));
    }
    let classes = header.classes()?;
    if trees == 0 || classes != [classes[0].max(1); 3] || !trees.is_multiple_of(classes[0]) {
        let [classes, per_iteration, of_objective] = classes;
        return Err(damaged(format!(
            "got {trees} trees, {classes} classes, {of_objective} in the objective, and {per_iteration} trees an \
             iteration; want a tree for each class"
        )));
    }
    Ok(trees)
}

fn damaged(text: impl Into<String>) -> ServingError {
    ServingError::new(Code::DataLoss, text.into())
}

/// The lines of one tree, as keys and values.
struct Tree<'a> {
    number: usize,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Tree<'a> {
    /// Reads lines up to an empty one.
    fn read(number: usize, lines: &mut impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut fields = Vec::new();
        for line in lines {
            if line.is_empty() {
                return Ok(Self { number, fields });
            }
            let field = line.split_once('=').ok_or_else(|| {
                let shown: String = line.chars().take(100).collect();
                damaged(format!("tree {number}: got the line {shown:?}, want a key and a value"))
            })?;
            fields.push(field);
        }
        Err(damaged(format!("tree {number}: got the end of the file, want an empty line")))
    }

    fn words(&self, key: &str) -> impl Iterator<Item = &'a str> {
        let field = self.fields.iter().rfind(|(found, _)| *found == key);
        field.map_or("", |(_, value)| value).split_whitespace()
    }

    fn damage(&self, key: &str, found: &str, wanted: &str) -> ServingError {
        damaged(format!("tree {}: {key}: got {found}, want {wanted}", self.number))
    }

    fn parsed<T: FromStr>(&self, key: &str, len: usize) -> Result<Vec<T>> {
        let parse = |word: &'a str| word.parse().map_err(|_| self.damage(key, &format!("{word:?}"), "a number"));
        let values = self.words(key).map(parse).collect::<Result<Vec<T>>>()?;
        if values.len() != len {
            return Err(self.damage(key, &format!("{} numbers", values.len()), &len.to_string()));
        }
        Ok(values)
    }

    fn count(&self, key: &str) -> Result<usize> {
        Ok(self.parsed::<u32>(key, 1)?[0] as usize)
    }

    fn check(&self, columns: usize) -> Result<()> {
        let leaves = self.count("num_leaves")?;
        if leaves == 0 {
            return Err(self.damage("num_leaves", "0", "1 or more"));
        }
        let nodes = leaves - 1;
        self.parsed::<f64>("leaf_value", leaves)?;
        let thresholds = self.parsed::<f64>("threshold", nodes)?;
        let decisions = self.parsed::<i32>("decision_type", nodes)?;
        self.check_features("split_feature", nodes, columns)?;
        self.check_children(nodes)?;
        self.check_categories(thresholds.iter().zip(decisions))?;
        self.check_linear(leaves, columns)
    }

    fn check_features(&self, key: &str, len: usize, columns: usize) -> Result<()> {
        match self.parsed::<u32>(key, len)?.into_iter().find(|&feature| feature as usize >= columns) {
            Some(feature) => Err(self.damage(key, &feature.to_string(), &format!("less than {columns}"))),
            None => Ok(()),
        }
    }

    /// Checks that each node and each leaf has one parent. A child that is a leaf is written as its complement.
    fn check_children(&self, nodes: usize) -> Result<()> {
        let children = |key| Ok((key, self.parsed::<i32>(key, nodes)?));
        let sides = [children("left_child")?, children("right_child")?];
        let (mut has_node, mut has_leaf) = (vec![false; nodes], vec![false; nodes + 1]);
        let mut open = Vec::new();
        if let Some(root) = has_node.first_mut() {
            *root = true;
            open.push((0, 1));
        }
        while let Some((node, depth)) = open.pop() {
            for (key, children) in &sides {
                let child = children[node];
                let has_parent =
                    if child < 0 { has_leaf.get_mut(!child as usize) } else { has_node.get_mut(child as usize) };
                match has_parent {
                    Some(has_parent) if !*has_parent && depth < MAX_DEPTH => *has_parent = true,
                    _ => return Err(self.damage(key, &child.to_string(), "a tree of nodes and leaves")),
                }
                if child >= 0 {
                    open.push((child as usize, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// Checks that the thresholds of categories are positions of sets of categories.
    fn check_categories<'b>(&self, splits: impl Iterator<Item = (&'b f64, i32)>) -> Result<()> {
        let sets = self.count("num_cat")?;
        for (&threshold, _) in splits.filter(|(_, decision)| decision & IS_CATEGORICAL != 0) {
            if !(threshold >= 0.0 && threshold < sets as f64) {
                return Err(self.damage("threshold", &threshold.to_string(), &format!("less than {sets}")));
            }
        }
        if sets == 0 {
            return Ok(());
        }
        let ends = self.parsed::<u32>("cat_boundaries", sets + 1)?;
        if let Some([one, other]) = ends.windows(2).find(|pair| pair[0] > pair[1]) {
            let found = format!("{one} before {other}");
            return Err(self.damage("cat_boundaries", &found, "growing numbers"));
        }
        self.parsed::<u32>("cat_threshold", ends[sets] as usize).map(drop)
    }

    fn check_linear(&self, leaves: usize, columns: usize) -> Result<()> {
        if !self.words("is_linear").any(|word| word != "0") {
            return Ok(());
        }
        self.parsed::<f64>("leaf_const", leaves)?;
        let counts = self.parsed::<u32>("num_features", leaves)?;
        let count: u64 = counts.into_iter().map(u64::from).sum();
        self.parsed::<f64>("leaf_coeff", count as usize)?;
        self.check_features("leaf_features", count as usize, columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE_TEXT: &str = "Tree=0\nnum_leaves=4\nnum_cat=1\nsplit_feature=0 1 0\nthreshold=0.5 0 1e+300\n\
        decision_type=2 1 2\nleft_child=1 -1 -2\nright_child=2 -3 -4\nleaf_value=1 2 3 nan\ncat_boundaries=0 2\n\
        cat_threshold=3 4294967295\nis_linear=1\nleaf_const=0 0 0 0\nnum_features=1 0 2 0\n\
        leaf_features=1  0 1  \nleaf_coeff=1 2 3\nshrinkage=1\n\n\n";

    fn model() -> String {
        let header = "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=1\n\
            objective=regression\nfeature_names=a b\nfeature_infos=[0:1] 0:1\ntree_sizes=7 8\n\n";
        let second = "Tree=1\nnum_leaves=1\nnum_cat=0\nsplit_feature=\nthreshold=\ndecision_type=\nleft_child=\n\
            right_child=\nleaf_value=5\n\n\n";
        format!(
            "{header}{TREE_TEXT}{second}end of trees\n\nparameters:\n[a: 1]\n\nend of parameters\n\npandas_categorical:[]\n"
        )
    }

    #[test]
    fn a_whole_model_has_its_trees() {
        assert_eq!(check(&model()).expect("it is sound"), 2);
        assert_eq!(check(&model().replace('\n', "\r\n")).expect("lines may end so"), 2);
    }

    #[test]
    fn a_model_that_was_cut_short_is_refused() {
        let text = model();
        let place = |part: &str| text.find(part).expect("it has that part");
        let within_parameters = place("[a: 1]")..place("end of parameters");
        for len in (0..place("end of trees") + 12).chain(within_parameters) {
            assert!(check(&text[..len]).is_err(), "{}", &text[..len]);
        }
    }

    #[test]
    fn damage_is_named() {
        for (sound, damage, complaint) in [
            ("split_feature=0 1 0", "split_feature=0 2 0", "tree 0: split_feature: got 2, want less than 2"),
            ("left_child=1 -1 -2", "left_child=0 -1 -2", "tree 0: left_child: got 0, want a tree of nodes and leaves"),
            ("left_child=1 -1 -2", "left_child=1 1 -2", "tree 0: left_child: got 1, want a tree of nodes and leaves"),
            ("left_child=1 -1 -2", "left_child=1 -1 3", "tree 0: left_child: got 3, want a tree of nodes and leaves"),
            (
                "right_child=2 -3 -4",
                "right_child=2 -3 -5",
                "tree 0: right_child: got -5, want a tree of nodes and leaves",
            ),
            ("left_child=1 -1 -2", "left_child=1 -1", "tree 0: left_child: got 2 numbers, want 3"),
            ("threshold=0.5 0", "threshold=0.5 1", "tree 0: threshold: got 1, want less than 1"),
            (
                "cat_boundaries=0 2",
                "cat_boundaries=2 0",
                "tree 0: cat_boundaries: got 2 before 0, want growing numbers",
            ),
            ("cat_boundaries=0 2", "cat_boundaries=0 3", "tree 0: cat_threshold: got 2 numbers, want 3"),
            ("leaf_features=1", "leaf_features=9", "tree 0: leaf_features: got 9, want less than 2"),
            ("num_leaves=1\n", "num_leaves=0\n", "tree 1: num_leaves: got 0, want 1 or more"),
            ("leaf_value=5", "leaf_value=5x", "tree 1: leaf_value: got \"5x\", want a number"),
            ("shrinkage=1", "shrinkage", "tree 0: got the line \"shrinkage\", want a key and a value"),
            ("tree_sizes=7 8", "tree_sizes=7", "got 2 trees before \"end of trees\", want 1 before \"end of trees\""),
            ("categorical:[]", "categorical:[", "the categories behind the parameters are no JSON"),
            ("max_feature_idx=1", "max_feature_idx=-1", "max_feature_idx: got \"-1\", want a number"),
            ("num_class=1", "num_class=3", "got 2 trees, 3 classes, 3 in the objective, and 1 trees an iteration"),
            ("objective=regression", "objective=multiclass num_class:9", "got 2 trees, 1 classes, 9 in the objective"),
        ] {
            let text = model();
            assert!(text.contains(sound), "{sound}");
            let error = check(&text.replacen(sound, damage, 1)).expect_err(damage);
            let found = String::from_utf8_lossy(&error.message).into_owned();
            assert!(found.starts_with(complaint), "{damage}: {found}");
            assert_eq!(error.code, Code::DataLoss);
        }
    }
}
