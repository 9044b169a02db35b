//! What the text of a model says about features and predictions.

use serde_json::Value;
use servable_model::error::{Code, Result, ServingError};
use servable_trees::{Categories, Feature};

/// The line behind the trees in which the Python package stores the categories of a data frame.
const CATEGORIES: &str = "pandas_categorical:";
const TREE_SIZES: &str = "tree_sizes";
/// The beginning of the first line of a tree.
pub(crate) const TREE: &str = "Tree=";

/// The lines in front of the trees, as keys and values, and the categories behind them.
pub(crate) struct Header<'a> {
    lines: Vec<(&'a str, &'a str)>,
    categories: Option<&'a str>,
}

impl<'a> Header<'a> {
    /// Reads the text of a model.
    pub(crate) fn of(text: &'a str) -> Self {
        let lines = text.lines().take_while(|line| !line.starts_with(TREE));
        let lines = lines.filter_map(|line| line.split_once('=')).collect();
        Self { lines, categories: text.lines().next_back().and_then(|line| line.strip_prefix(CATEGORIES)) }
    }

    /// The value of a key; of its last line, as in the library.
    fn value(&self, key: &str) -> Option<&'a str> {
        self.lines.iter().rfind(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    fn number(&self, key: &str) -> Result<usize> {
        let value = self.value(key).unwrap_or_default();
        let number = value.parse::<u32>().map(|number| number as usize);
        number.map_err(|_| ServingError::new(Code::DataLoss, format!("{key}: got {value:?}, want a number")))
    }

    /// The number of features.
    pub(crate) fn columns(&self) -> Result<usize> {
        Ok(self.number("max_feature_idx")? + 1)
    }

    /// The number of results of a row, and of trees for each iteration and for each class of the objective.
    pub(crate) fn classes(&self) -> Result<[usize; 3]> {
        let classes = self.number("num_class")?;
        let has_trees = self.value("num_tree_per_iteration").is_some();
        let trees = if has_trees { self.number("num_tree_per_iteration")? } else { classes };
        let parameters = self.value("objective").unwrap_or_default().split_whitespace();
        let of_objective = parameters.filter_map(|each| each.strip_prefix("num_class:")).next_back();
        Ok([classes, trees, of_objective.map_or(Some(classes), |each| each.parse().ok()).unwrap_or_default()])
    }

    /// The number of trees; `None` in old formats.
    pub(crate) fn trees(&self) -> Option<usize> {
        self.value(TREE_SIZES).map(|sizes| sizes.split_whitespace().count())
    }

    /// The format of the file, such as `v4`.
    pub(crate) fn format(&self) -> Option<&'a str> {
        self.value("version")
    }

    /// The name of the objective, without its parameters; empty for a custom one.
    pub(crate) fn objective(&self) -> &'a str {
        self.value("objective").and_then(|value| value.split_whitespace().next()).unwrap_or_default()
    }

    pub(crate) fn has_damaged_categories(&self) -> bool {
        self.categories.is_some_and(|json| serde_json::from_str::<Value>(json).is_err())
    }

    /// The features, if the header describes this many.
    pub(crate) fn features(&self, count: usize) -> Vec<Feature> {
        let mut features = vec![Feature::default(); count];
        let words = |key| -> Vec<&str> { self.value(key).unwrap_or_default().split(' ').collect() };
        let names = words("feature_names");
        // Names that the library makes up are none.
        let are_given = names.iter().enumerate().any(|(index, name)| *name != format!("Column_{index}"));
        if names.len() == count && are_given {
            features.iter_mut().zip(names).for_each(|(feature, name)| name.clone_into(&mut feature.name));
        }
        let infos = words("feature_infos");
        let Some(categories) = self.categories.and_then(categories) else { return features };
        if infos.len() != count {
            return features;
        }
        // The range of numbers is in brackets, and a feature that is not used has `none`. Categories are assigned in
        // order, so their features must be known.
        let categorical: Vec<usize> =
            (0..count).filter(|&index| !infos[index].starts_with('[') && infos[index] != "none").collect();
        if categorical.len() == categories.len() {
            for (index, categories) in categorical.into_iter().zip(categories) {
                features[index].categories = Some(categories);
            }
        }
        features
    }
}

/// Removes the sizes of the trees. Without them the library reads one tree after the other, and reports damage. With
/// them it uses threads, and damage ends the process.
pub(crate) fn remove_tree_sizes(text: &mut String) {
    while let Some((start, len)) = tree_sizes(text) {
        text.replace_range(start..start + len, "");
    }
}

/// The place of the first line with the sizes of the trees.
fn tree_sizes(text: &str) -> Option<(usize, usize)> {
    let mut start = 0;
    for line in text.split_inclusive('\n').take_while(|line| !line.starts_with(TREE)) {
        if line.split('=').next() == Some(TREE_SIZES) {
            return Some((start, line.len()));
        }
        start += line.len();
    }
    None
}

/// The categories of each column of a data frame that has any.
fn categories(json: &str) -> Option<Vec<Categories>> {
    let columns: Vec<Vec<Value>> = serde_json::from_str(json).ok()?;
    columns.into_iter().map(categories_of).collect()
}

fn categories_of(values: Vec<Value>) -> Option<Categories> {
    if values.iter().all(Value::is_string) {
        let strings: Vec<Vec<u8>> = values.iter().filter_map(|each| Some(each.as_str()?.as_bytes().to_vec())).collect();
        return Some(Categories::of_strings(strings));
    }
    let number = |value: Value| value.as_f64().or_else(|| value.as_bool().map(|each| f64::from(u8::from(each))));
    Some(Categories::of_numbers(values.into_iter().map(number).collect::<Option<Vec<_>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "tree\nversion=v4\nobjective=binary sigmoid:1\nfeature_names=color size w none_of\n\
        feature_infos=0:1:2 1:0 [0:1] none\n\nTree=0\nobjective=other\n\npandas_categorical:[[\"a\", \"b\", \"c\"], [10, 20]]\n";

    #[test]
    fn a_header_names_objective_and_features() {
        let header = Header::of(TEXT);
        assert_eq!((header.format(), header.objective()), (Some("v4"), "binary"));
        let features = header.features(4);
        let names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["color", "size", "w", "none_of"]);
        assert!(matches!(&features[0].categories, Some(Categories::Strings(codes)) if codes[&b"c"[..]] == 2));
        assert!(matches!(&features[1].categories, Some(Categories::Numbers(codes)) if codes.len() == 2));
        assert!(features[2..].iter().all(|feature| feature.categories.is_none()));
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert!(Header::of(TEXT).features(3).iter().all(|each| each.name.is_empty() && each.categories.is_none()));
        let made_up = Header::of("feature_names=Column_0 Column_1\nfeature_infos=0:1 [0:1]\n");
        assert!(made_up.features(2).iter().all(|each| each.name.is_empty()));
        let unknown = TEXT.replace("1:0", "none");
        assert!(Header::of(&unknown).features(4).iter().all(|each| each.categories.is_none()));
        for categories in ["null", "[[null]]", "[[\"a\", 1]]", "{"] {
            let text = format!("feature_names=a\nfeature_infos=0:1\n\npandas_categorical:{categories}\n");
            assert!(Header::of(&text).features(1)[0].categories.is_none());
        }
    }
}
