//! Which requests a route is for, and with which target each begins: a table of values whose first match wins.
//!
//! What was decided explains itself: [`RouteTable::explain`] says of each route why it was passed over.

use crate::{
    completion::{Asker, CompletionRequest, Language},
    config::{RouteConfig, RouteTarget, Who},
    flags::pseudonym,
    routing::split,
};

/// What a request is matched by.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The name asked for.
    pub name: &'a str,
    /// The own name of its model.
    pub model: &'a str,
    /// Language of the file.
    pub language: Option<Language>,
    /// Size of the texts that the prompt is made of.
    pub num_prompt_bytes: u64,
    /// Who asks and what for.
    pub asker: &'a Asker,
    /// A number for this request: who has no user is split by it, and shadows are.
    pub draw: u64,
}

impl<'a> Facts<'a> {
    /// Reads a request that asked for `name`, which leads to `model`.
    pub fn of(request: &'a CompletionRequest, name: &'a str, model: &'a str, draw: u64) -> Self {
        Self {
            name,
            model,
            language: request.language,
            num_prompt_bytes: request.num_prompt_bytes() as u64,
            asker: &request.asker,
            draw,
        }
    }
}

/// Why a route is not for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It is for another task.
    Task,
    /// It is for other models.
    Model,
    /// It is for other languages.
    Language,
    /// It is for other users.
    User,
    /// It is for other groups.
    Group,
    /// It is for another realm.
    Realm,
    /// None of its flags is in force.
    Flag,
    /// The prompt is too small.
    PromptTooSmall,
    /// The prompt is too large.
    PromptTooLarge,
    /// Each of its targets excepts who asks.
    AllExcepted,
}

impl Mismatch {
    /// Returns what a person reads.
    pub fn as_text(self) -> &'static str {
        match self {
            Self::Task => "it is for another task",
            Self::Model => "it is for other models",
            Self::Language => "it is for other languages",
            Self::User => "it is for other users",
            Self::Group => "it is for other groups",
            Self::Realm => "it is for another realm",
            Self::Flag => "none of its flags is in force",
            Self::PromptTooSmall => "the prompt is too small",
            Self::PromptTooLarge => "the prompt is too large",
            Self::AllExcepted => "each of its targets excepts who asks",
        }
    }
}

/// Why a request begins with the target that it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start<'a> {
    /// It is the first of the route.
    First,
    /// Somebody is pinned to it.
    Pinned(&'a Who),
    /// By weight.
    Split {
        /// Its weight.
        weight: u32,
        /// Whether by the user, so that it stays; else by chance.
        is_sticky: bool,
    },
}

/// A route with what it says of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<'a> {
    /// The route.
    pub route: &'a RouteConfig,
    /// Its targets by their place, in the order in which they are tried.
    pub order: Vec<usize>,
    /// Why the first is first.
    pub start: Start<'a>,
    /// Whom the request is copied to.
    pub shadow: Option<&'a str>,
}

/// What a table says of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation<'a> {
    /// The routes that were passed over, with the first reason.
    pub passed: Vec<(&'a str, Mismatch)>,
    /// The route that matched.
    pub chosen: Option<Chosen<'a>>,
}

/// Routes, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    routes: Vec<Route>,
}

/// A route as it was typed, and with pseudonyms in the place of users.
#[derive(Clone, Debug, PartialEq)]
struct Route {
    config: RouteConfig,
    users: Vec<String>,
}

impl From<Vec<RouteConfig>> for RouteTable {
    fn from(configs: Vec<RouteConfig>) -> Self {
        let route = |config: RouteConfig| {
            let users = config.when.users.iter().map(|id| pseudonym(id)).collect();
            Route { config, users }
        };
        Self { routes: configs.into_iter().map(route).collect() }
    }
}

impl RouteTable {
    /// Returns the routes.
    pub fn routes(&self) -> impl Iterator<Item = &RouteConfig> {
        self.routes.iter().map(|route| &route.config)
    }

    /// Returns the table with other weights in a route; `None` where the route, or one of the targets, is not there, or
    /// the weights do not sum to 100.
    pub fn with_weights(&self, route: &str, weights: &[(String, u32)]) -> Option<Self> {
        let mut table = self.clone();
        let config = table.routes.iter_mut().find(|other| other.config.name == route)?;
        for target in &mut config.config.targets {
            target.weight = 0;
        }
        for (name, weight) in weights {
            let target = config.config.targets.iter_mut().find(|target| target.name == *name)?;
            target.weight = *weight;
        }
        let sum: u64 = config.config.targets.iter().map(|target| u64::from(target.weight)).sum();
        (sum == 100).then_some(table)
    }

    /// Returns the first route that is for a request.
    pub fn choose(&self, facts: &Facts<'_>) -> Option<Chosen<'_>> {
        self.routes.iter().find_map(|route| route.choose(facts).ok())
    }

    /// Returns the same, and why the routes before it are not.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation<'_> {
        let mut passed = Vec::new();
        for route in &self.routes {
            match route.choose(facts) {
                Ok(chosen) => return Explanation { passed, chosen: Some(chosen) },
                Err(mismatch) => passed.push((route.config.name.as_str(), mismatch)),
            }
        }
        Explanation { passed, chosen: None }
    }
}

impl Route {
    fn choose(&self, facts: &Facts<'_>) -> Result<Chosen<'_>, Mismatch> {
        self.check(facts)?;
        let route = &self.config;
        let is_open = |target: &RouteTarget| !target.except.iter().any(|who| is(who, facts.asker));
        let open: Vec<usize> =
            (0..route.targets.len()).filter(|index| is_open(&route.targets[*index])).collect();
        let first = *open.first().ok_or(Mismatch::AllExcepted)?;
        let (begins, start) = self.start(&open, first, facts);
        let others = open.into_iter().filter(|index| *index != begins);
        let order = std::iter::once(begins).chain(others).collect();
        let shadow = route.shadow.as_ref();
        let shadow = shadow.filter(|shadow| split::is_in_share(facts.draw, shadow.percent));
        Ok(Chosen { route, order, start, shadow: shadow.map(|shadow| shadow.target.as_str()) })
    }

    fn start(&self, open: &[usize], first: usize, facts: &Facts<'_>) -> (usize, Start<'_>) {
        let targets = &self.config.targets;
        let place = |name: &str| open.iter().copied().find(|index| targets[*index].name == name);
        let mut pins = self.config.pins.iter().filter(|(who, _)| is(who, facts.asker));
        if let Some((target, who)) = pins.find_map(|(who, name)| Some((place(name)?, who))) {
            return (target, Start::Pinned(who));
        }
        let drawn;
        let who = if let Some(user) = &facts.asker.user {
            user.as_str()
        } else {
            drawn = facts.draw.to_string();
            &drawn
        };
        let weighted = open.iter().map(|index| {
            let target = &targets[*index];
            (target.name.as_str(), target.weight)
        });
        match split::choose(&self.config.name, who, weighted) {
            Some(choice) => {
                let target = open[choice];
                let weight = targets[target].weight;
                (target, Start::Split { weight, is_sticky: facts.asker.user.is_some() })
            }
            None => (first, Start::First),
        }
    }

    fn check(&self, facts: &Facts<'_>) -> Result<(), Mismatch> {
        let (when, asker) = (&self.config.when, facts.asker);
        let holds = |words: &[String], word: Option<&str>| {
            words.is_empty() || word.is_some_and(|word| words.iter().any(|other| other == word))
        };
        let any = |words: &[String], own: &[String]| {
            words.is_empty() || own.iter().any(|word| words.contains(word))
        };
        let size = facts.num_prompt_bytes;
        let rows: [(bool, Mismatch); 9] = [
            (when.tasks.is_empty() || when.tasks.contains(&asker.task), Mismatch::Task),
            (
                holds(&when.models, Some(facts.name)) || holds(&when.models, Some(facts.model)),
                Mismatch::Model,
            ),
            (holds(&when.languages, facts.language.map(Language::name)), Mismatch::Language),
            (holds(&self.users, asker.user.as_deref()), Mismatch::User),
            (any(&when.groups, &asker.groups), Mismatch::Group),
            (holds(&when.realms, asker.realm.as_deref()), Mismatch::Realm),
            (any(&when.flags, &asker.flags), Mismatch::Flag),
            (when.prompt_bytes_min.is_none_or(|least| size >= least), Mismatch::PromptTooSmall),
            (when.prompt_bytes_max.is_none_or(|most| size <= most), Mismatch::PromptTooLarge),
        ];
        rows.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, mismatch)| Err(mismatch))
    }
}

/// Returns whether somebody is who asks.
fn is(who: &Who, asker: &Asker) -> bool {
    match who {
        Who::User(id) => asker.user.as_ref().is_some_and(|user| *user == pseudonym(id)),
        Who::Group(group) => asker.groups.contains(group),
        Who::Realm(realm) => asker.realm.as_ref() == Some(realm),
        Who::Flag(flag) => asker.flags.contains(flag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Task;
    use crate::config::{RouteMatch, ShadowConfig};

    fn target(name: &str, weight: u32) -> RouteTarget {
        RouteTarget { name: name.to_owned(), weight, except: Vec::new() }
    }

    fn route(name: &str, when: RouteMatch, targets: Vec<RouteTarget>) -> RouteConfig {
        RouteConfig { name: name.to_owned(), when, targets, pins: Vec::new(), shadow: None }
    }

    fn text(word: &str) -> Vec<String> {
        vec![word.to_owned()]
    }

    fn ada() -> Asker {
        Asker {
            task: Task::Completion,
            user: Some(pseudonym("ada")),
            groups: vec!["7".to_owned(), "9".to_owned()],
            realm: Some("saas".to_owned()),
            flags: text("new"),
            failed_at: Vec::new(),
        }
    }

    fn facts(asker: &Asker) -> Facts<'_> {
        Facts {
            name: "quick",
            model: "coder",
            language: Language::detect("a.go", None),
            num_prompt_bytes: 1000,
            asker,
            draw: 5,
        }
    }

    #[test]
    fn each_matcher_holds_for_what_it_names_and_for_nothing_else() {
        let none = RouteMatch::default;
        let rows: Vec<(RouteMatch, Option<Mismatch>)> = vec![
            (none(), None),
            (RouteMatch { tasks: vec![Task::Completion], ..none() }, None),
            (RouteMatch { tasks: vec![Task::Generation], ..none() }, Some(Mismatch::Task)),
            (RouteMatch { models: text("quick"), ..none() }, None),
            (RouteMatch { models: text("coder"), ..none() }, None),
            (RouteMatch { models: text("large"), ..none() }, Some(Mismatch::Model)),
            (RouteMatch { languages: text("go"), ..none() }, None),
            (RouteMatch { languages: text("js"), ..none() }, Some(Mismatch::Language)),
            (RouteMatch { users: text("ada"), ..none() }, None),
            (RouteMatch { users: text("bob"), ..none() }, Some(Mismatch::User)),
            (RouteMatch { groups: text("9"), ..none() }, None),
            (RouteMatch { groups: text("8"), ..none() }, Some(Mismatch::Group)),
            (RouteMatch { realms: text("saas"), ..none() }, None),
            (RouteMatch { realms: text("self-managed"), ..none() }, Some(Mismatch::Realm)),
            (RouteMatch { flags: text("new"), ..none() }, None),
            (RouteMatch { flags: text("old"), ..none() }, Some(Mismatch::Flag)),
            (RouteMatch { prompt_bytes_min: Some(1000), ..none() }, None),
            (RouteMatch { prompt_bytes_min: Some(1001), ..none() }, Some(Mismatch::PromptTooSmall)),
            (RouteMatch { prompt_bytes_max: Some(1000), ..none() }, None),
            (RouteMatch { prompt_bytes_max: Some(999), ..none() }, Some(Mismatch::PromptTooLarge)),
            (RouteMatch { users: text("ada"), flags: text("old"), ..none() }, Some(Mismatch::Flag)),
        ];
        let asker = ada();
        for (when, expected) in rows {
            let table = RouteTable::from(vec![route("r", when.clone(), vec![target("a", 0)])]);
            let explanation = table.explain(&facts(&asker));
            let found = explanation.passed.first().map(|(_, mismatch)| *mismatch);
            assert_eq!(found, expected, "{when:?}");
            assert_eq!(table.choose(&facts(&asker)), explanation.chosen, "{when:?}");
        }
    }

    #[test]
    fn the_first_match_wins_and_nobody_is_everybody() {
        let generation = RouteMatch { tasks: vec![Task::Generation], ..RouteMatch::default() };
        let users = RouteMatch { users: text("ada"), ..RouteMatch::default() };
        let table = RouteTable::from(vec![
            route("generations", generation, vec![target("a", 0)]),
            route("ada", users, vec![target("a", 0)]),
            route("all", RouteMatch::default(), vec![target("a", 0)]),
        ]);
        let nobody = Asker::default();
        for (asker, name, passed) in [
            (ada(), "ada", vec![("generations", Mismatch::Task)]),
            (nobody, "all", vec![("generations", Mismatch::Task), ("ada", Mismatch::User)]),
        ] {
            let facts = facts(&asker);
            let explanation = table.explain(&facts);
            assert_eq!(explanation.chosen.unwrap().route.name, name);
            assert_eq!(explanation.passed, passed);
        }
        assert_eq!(RouteTable::default().choose(&facts(&ada())), None);
    }

    #[test]
    fn who_begins_where() {
        let mut config = route(
            "r",
            RouteMatch::default(),
            vec![target("a", 0), target("b", 100), target("c", 0)],
        );
        let order = |config: &RouteConfig| {
            let table = RouteTable::from(vec![config.clone()]);
            let asker = ada();
            let facts = facts(&asker);
            let explanation = table.explain(&facts);
            explanation.chosen.map(|chosen| chosen.order)
        };
        assert_eq!(order(&config), Some(vec![1, 0, 2]));
        config.pins = vec![
            (Who::User("bob".to_owned()), "a".to_owned()),
            (Who::Group("9".to_owned()), "c".to_owned()),
        ];
        assert_eq!(order(&config), Some(vec![2, 0, 1]));
        config.targets[2].except = vec![Who::Realm("saas".to_owned())];
        assert_eq!(order(&config), Some(vec![1, 0]));
        config.targets[1].except = vec![Who::Flag("new".to_owned())];
        assert_eq!(order(&config), Some(vec![0]));
        config.targets[0].except = vec![Who::User("ada".to_owned())];
        assert_eq!(order(&config), None);
    }

    #[test]
    fn without_a_user_chance_splits_and_shadows_are_drawn() {
        let mut config = route("r", RouteMatch::default(), vec![target("a", 50), target("b", 50)]);
        config.shadow = Some(ShadowConfig { target: "c".to_owned(), percent: 50.0 });
        let table = RouteTable::from(vec![config]);
        let count = |asker: &Asker| {
            let (mut first, mut shadows) = (0, 0);
            for index in 0..400 {
                let facts = Facts { draw: split::draw(index), ..facts(asker) };
                let chosen = table.choose(&facts).unwrap();
                first += usize::from(chosen.order[0] == 0);
                shadows += usize::from(chosen.shadow == Some("c"));
            }
            (first, shadows)
        };
        let (first, shadows) = count(&Asker::default());
        assert!((150..250).contains(&first) && (150..250).contains(&shadows), "{first} {shadows}");
        let (sticky, _) = count(&ada());
        assert!(sticky == 0 || sticky == 400, "{sticky}");
    }

    #[test]
    fn weights_are_changed_as_a_whole() {
        let table = RouteTable::from(vec![route(
            "r",
            RouteMatch::default(),
            vec![target("a", 100), target("b", 0)],
        )]);
        let weights = |rows: &[(&str, u32)]| {
            let rows: Vec<(String, u32)> =
                rows.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
            let changed = table.with_weights("r", &rows)?;
            let targets = &changed.routes().next()?.targets;
            Some(targets.iter().map(|target| target.weight).collect::<Vec<_>>())
        };
        assert_eq!(weights(&[("b", 100)]), Some(vec![0, 100]));
        assert_eq!(weights(&[("a", 30), ("b", 70)]), Some(vec![30, 70]));
        assert_eq!(weights(&[("b", 99)]), None);
        assert_eq!(weights(&[("c", 100)]), None);
        assert_eq!(table.with_weights("s", &[("a".to_owned(), 100)]), None);
    }
}
