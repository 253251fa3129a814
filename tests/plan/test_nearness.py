"""Regions and links: they decide among what is equal in throughput, and cost no throughput."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmtrain.core.types import PeerId
from swarmtrain.plan.assign import WORTHWHILE_GAIN, Assignment, Candidate, assign, choose_stages
from swarmtrain.plan.costs import LinkFigure, PeerFigures, costs_of
from swarmtrain.plan.layout import Host
from swarmtrain.plan.nearness import Lines, Nearness
from swarmtrain.plan.rebalance import Decision, Policy, View, rebalance
from tests.plan.test_assign import candidate_sets, pace, replicas
from tests.plan.test_rebalance import FREE, POLICY, apply, counts_of, is_lonely, rates_of, views

SENT_BYTES = 1000
REGIONS = ("", "east", "west", "mid")
NEAR_SECONDS, FAR_SECONDS = 0.01, 0.1


def lines_of(seconds: dict[tuple[str, str], float]) -> Lines:
    """Links measured one way, and surely; bytes cost next to nothing."""
    figures = [
        PeerFigures(PeerId(a), 1.0, links=(LinkFigure(PeerId(b), value, 1e12, 100),))
        for (a, b), value in seconds.items()
    ]
    return Lines(costs_of(figures), SENT_BYTES)


def inside_and_across(regions: dict[str, str]) -> Lines:
    """Every pair measured: ten times faster inside a region than across."""
    return lines_of(
        {
            (a, b): NEAR_SECONDS if regions[a] == regions[b] else FAR_SECONDS
            for a in regions
            for b in regions
            if a < b
        }
    )


def nearness(placed: dict[str, tuple[int, ...]], regions: dict[str, str], lines: Lines | None):
    near = Nearness(4, {PeerId(p): r for p, r in regions.items()}, lines)
    for peer, stages in placed.items():
        near.place(PeerId(peer), stages)
    return near


def serving(places: dict[str, tuple[int, str]], seconds: float = 1.0) -> list[Candidate]:
    """Peers that stay: stage and region by name."""
    return [
        Candidate(PeerId(name), (stage,), 1, seconds, region=region)
        for name, (stage, region) in places.items()
    ]


def newcomer(region: str = "", capacity: int = 1) -> Candidate:
    return Candidate(PeerId("new"), None, capacity, 1.0, region=region)


def both(*stages: int, first: str = "east", second: str = "west") -> dict[str, tuple[int, str]]:
    """Two replicas of each stage, one a region."""
    return {f"{stage}{region}": (stage, region) for stage in stages for region in (first, second)}


@st.composite
def placed_sets(draw: st.DrawFn) -> tuple[list[Candidate], int, Lines | None]:
    candidates, stages = draw(candidate_sets())
    candidates = [replace(c, region=draw(st.sampled_from(REGIONS))) for c in candidates]
    return candidates, stages, draw(some_lines([c.peer for c in candidates]))


def some_lines(peers: list[PeerId]) -> st.SearchStrategy[Lines | None]:
    pair = st.tuples(st.sampled_from(peers), st.sampled_from(peers))
    table = st.dictionaries(pair, st.sampled_from((0.001, 0.01, 0.1, 0.5)), max_size=12)
    return st.none() | table.map(lines_of)


# ---- what a hop takes -----------------------------------------------------------------------------------------------


def test_what_was_measured_counts_both_ways():
    near = nearness({}, {}, lines_of({("a", "b"): 0.2, ("b", "a"): 0.3, ("a", "c"): 0.1}))
    assert near.round_trip_seconds(PeerId("a"), PeerId("b")) == pytest.approx(0.5)
    assert near.round_trip_seconds(PeerId("b"), PeerId("a")) == pytest.approx(0.5)
    assert near.round_trip_seconds(PeerId("c"), PeerId("a")) == pytest.approx(0.2), "as the way out"


def test_peers_that_never_spoke_are_as_far_apart_as_their_regions():
    regions = {"a": "east", "b": "west", "c": "east", "d": "west", "e": "mid"}
    measured = {("a", "b"): 0.3, ("b", "c"): 0.5, ("a", "c"): 0.1}
    near = nearness({}, regions, lines_of(measured))
    assert near.round_trip_seconds(PeerId("c"), PeerId("d")) == pytest.approx(0.3 + 0.5)
    assert near.round_trip_seconds(PeerId("d"), PeerId("e")) == pytest.approx(2 * 0.4), "across"
    assert near.round_trip_seconds(PeerId("b"), PeerId("d")) == pytest.approx(2 * 0.1), "inside"
    assert near.round_trip_seconds(PeerId("d"), PeerId("nobody")) == pytest.approx(2 * 0.3)


def test_one_liar_moves_no_region():
    regions = {name: "east" if name < "c" else "west" for name in "abcdef"}
    honest = {(a, b): 0.1 for a in "ab" for b in "cd"}
    lie = {**honest, ("a", "c"): 3600.0}
    near = nearness({}, regions, lines_of(lie))
    assert near.round_trip_seconds(PeerId("b"), PeerId("e")) == pytest.approx(0.2)


def test_a_stage_is_as_far_as_the_nearest_half_of_its_replicas():
    placed = {"b": (1,), "c": (1,), "d": (1,), "e": (3,), "f": (0,)}
    links = {"b": 0.1, "c": 0.2, "d": 0.9, "e": 0.4, "f": 5.0}
    near = nearness(placed, {}, lines_of({("a", b): value for b, value in links.items()}))
    assert near.hop_seconds(PeerId("a"), (2,)) == pytest.approx(2 * 0.15 + 2 * 0.4)
    assert near.hop_seconds(PeerId("a"), (1, 2)) == pytest.approx(2 * 5.0 + 2 * 0.4)


def test_the_edge_stands_before_the_first_and_after_the_last_stage():
    placed = {"e": (0,), "b": (1,), "c": (3,), "d": (4,)}
    lines = lines_of({("a", "e"): 0.1, ("a", "b"): 0.2, ("a", "c"): 0.3, ("a", "d"): 0.7})
    near = nearness(placed, {}, lines)
    assert near.hop_seconds(PeerId("a"), (4,)) == pytest.approx(2 * (0.1 + 0.3))
    assert near.hop_seconds(PeerId("a"), (0,)) == pytest.approx(2 * (0.2 + 0.7))
    assert near.hop_seconds(PeerId("a"), (0, 1, 2, 3, 4)) == 0.0


# ---- newcomers ------------------------------------------------------------------------------------------------------


def near_case() -> tuple[list[Candidate], dict[str, str]]:
    """No stage is exposed; the neighbours of stage 3 alone stand in the west, but none of its own replicas does."""
    places = {
        **both(0, 1, 3, first="east", second="mid"),
        **both(2, 4, first="mid", second="west"),
    }
    return serving(places), {name: region for name, (_, region) in places.items()}


def test_a_newcomer_takes_the_stage_whose_neighbours_are_near():
    others, regions = near_case()
    lines = inside_and_across(regions)
    chosen = choose_stages(newcomer("west"), others, 4, lines)
    assert chosen.stages == (3,)
    assert "because its links to stages 2 and 4 are the shortest of those in need" in chosen.reason
    assert choose_stages(newcomer(), others, 4, lines).stages == (0,), "nobody knows where it is"
    assert choose_stages(newcomer("west"), others, 4).stages == (0,), "nothing was measured"


def test_a_stage_that_is_clearly_slower_comes_first():
    others, regions = near_case()
    slower = [replace(c, seconds_per_stage=1.15) if c.pinned == (1,) else c for c in others]
    lines = inside_and_across(regions)
    assert choose_stages(newcomer("west"), slower, 4, lines).stages == (1,)
    hardly = [replace(c, seconds_per_stage=1.05) if c.pinned == (1,) else c for c in others]
    assert choose_stages(newcomer("west"), hardly, 4, lines).stages == (3,)


def test_its_own_measured_links_count_before_its_region():
    others, regions = near_case()
    own = {("new", f"{stage}{region}"): 0.001 for stage in (0, 2) for region in ("east", "mid")}
    links = inside_and_across(regions).costs.links
    known = {(str(a), str(b)): figure.one_way_seconds for (a, b), figure in links.items()}
    lines = lines_of({**known, **own})
    assert choose_stages(newcomer("west"), others, 4, lines).stages == (1,)


def test_a_newcomer_joins_the_stage_that_one_region_would_take():
    places = {**both(0, 1, 3, 4), "2a": (2, "east"), "2b": (2, "east")}
    others = serving(places)
    chosen = choose_stages(newcomer("west"), others, 4)
    assert chosen.stages == (2,)
    assert "because without it one region's outage could take stage 2" in chosen.reason
    assert choose_stages(newcomer("east"), others, 4).stages == (0,), "it would save nothing"
    assert choose_stages(newcomer(""), others, 4).stages == (0,), "nobody knows whether it would"


def test_independence_comes_before_links():
    places = {**both(0, 1, 3, 4), "2a": (2, "east"), "2b": (2, "east")}
    regions = {name: region for name, (_, region) in places.items()}
    known = inside_and_across(regions).costs.links
    measured = {(str(a), str(b)): figure.one_way_seconds for (a, b), figure in known.items()}
    # The edge's neighbours are nearest by far.
    near = {("new", f"{stage}west"): 0.0001 for stage in (1, 4)}
    far = {("new", f"{stage}{region}"): 0.5 for stage in (0, 3) for region in ("east", "west")}
    lines = lines_of({**measured, **near, **far})
    assert choose_stages(newcomer("west"), others := serving(places), 4, lines).stages == (2,)
    assert choose_stages(newcomer("east"), others, 4, lines).stages == (0,)


def test_many_newcomers_end_near_their_neighbours():
    """Two regions with fast links inside: every region's newcomers fill gaps beside its own peers."""
    others, regions = near_case()
    lines = inside_and_across(regions)
    near_seconds = far_seconds = 0.0
    for region in ("east", "mid", "west"):
        for stage in range(5):
            placed = nearness(
                {str(c.peer): c.pinned or () for c in others}, {**regions, "new": region}, lines
            )
            seconds = placed.hop_seconds(PeerId("new"), (stage,))
            far_seconds += seconds / 5
            if choose_stages(newcomer(region), others, 4, lines).stages == (stage,):
                near_seconds += seconds
    assert near_seconds < 0.6 * far_seconds


def test_the_first_placement_spreads_stages_over_regions():
    """Nothing is measured yet. Two peers a stage, both of the first two in one region by their ids."""
    free = [
        Candidate(PeerId(f"{n}"), None, 1, 1.0, region="east" if n < 3 else "west")
        for n in range(6)
    ]
    swapped = [replace(c, region="west" if c.region == "east" else "east") for c in free]
    mixed = [replace(c, region="east" if n in (0, 4, 5) else "west") for n, c in enumerate(free)]
    for candidates in (free, swapped, mixed):
        placed = assign(candidates, 2)
        region = {c.peer: c.region for c in candidates}
        for stage in range(3):
            hosts = {region[p] for p, a in placed.items() if stage in a.stages}
            assert hosts == {"east", "west"}, "of every stage"


@given(placed_sets())
@settings(max_examples=200, deadline=None)
def test_it_costs_no_throughput(case: tuple[list[Candidate], int, Lines | None]):
    candidates, stages, lines = case
    plain = assign([replace(c, region="") for c in candidates], stages)
    near = assign(candidates, stages, lines)

    def covered_pace(placed: dict[PeerId, Assignment]) -> float:
        covered = {stage for a in placed.values() for stage in a.stages}
        rates = dict.fromkeys(covered, 0.0)
        for c in candidates:
            for stage in placed[c.peer].stages:
                rates[stage] += 1 / c.seconds_per_stage / len(placed[c.peer].stages)
        return min(rates.values(), default=0.0)

    assert covered_pace(near) * WORTHWHILE_GAIN >= covered_pace(plain) * (1 - 1e-9)
    before, after = replicas(plain, stages), replicas(near, stages)
    assert [count > 0 for count in after] == [count > 0 for count in before]
    assert not is_lonely(after) or is_lonely(before)
    for candidate in candidates:
        hosted = near[candidate.peer].stages
        if candidate.pinned is None:
            assert len(hosted) <= candidate.capacity_stages
            assert candidate.edge_capable or 0 not in hosted


@given(placed_sets(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_peers_and_links_does_not_matter(case, chance):
    candidates, stages, lines = case
    shuffled, again = list(candidates), lines
    chance.shuffle(shuffled)
    if lines is not None:
        links = list(lines.costs.links.items())
        chance.shuffle(links)
        again = Lines(replace(lines.costs, links=dict(links)), lines.sent_bytes)
    assert assign(shuffled, stages, again) == assign(candidates, stages, lines)


@given(candidate_sets(), st.sampled_from(REGIONS))
@settings(max_examples=60, deadline=None)
def test_one_region_and_no_links_change_nothing(case: tuple[list[Candidate], int], region: str):
    candidates, stages = case
    assert assign([replace(c, region=region) for c in candidates], stages) == assign(
        candidates, stages
    )


@given(candidate_sets())
@settings(max_examples=40, deadline=None)
def test_equal_links_change_nothing(case: tuple[list[Candidate], int]):
    candidates, stages = case
    names = [str(c.peer) for c in candidates]
    lines = lines_of({(a, b): 0.1 for a in names for b in names if a != b})
    one_each = [replace(c, capacity_stages=min(c.capacity_stages, 1)) for c in candidates]
    near, plain = assign(one_each, stages, lines), assign(one_each, stages)
    assert pace(one_each, near, stages) == pytest.approx(pace(one_each, plain, stages))


# ---- moves ----------------------------------------------------------------------------------------------------------


def moved(hosts: list[Host], lines: Lines | None) -> Decision:
    stages = 1 + max(stage for host in hosts for stage in host.stages)
    return rebalance(View(tuple(hosts), (1.0,) * stages, (1.0,) * stages, 1.0, lines=lines), POLICY)


def hosts_of(places: dict[str, tuple[int, str]]) -> list[Host]:
    return [
        Host(PeerId(name), (stage,), 1, 1.0, region=region)
        for name, (stage, region) in places.items()
    ]


def crowd() -> dict[str, tuple[int, str]]:
    """Stage 2 has six replicas, the others three, stage 1 two; nothing is exposed whoever moves."""
    places = {f"{s}{n}": (s, r) for s in (0, 3, 4) for n, r in enumerate(("east", "west", "mid"))}
    places |= {"10": (1, "east"), "11": (1, "west")}
    return places | {f"2{n}": (2, ("east", "mid", "west")[n % 3]) for n in range(6)}


def test_of_equal_movers_the_one_with_the_best_exchange_goes():
    places = crowd()
    regions = {name: region for name, (_, region) in places.items()}
    measured = {(a, b): FAR_SECONDS for a in regions for b in regions if a < b}
    # One of stage 2 is near the edge, a neighbour of stage 1 and not of stage 2.
    measured |= {(f"0{n}", "24"): NEAR_SECONDS for n in range(3)}
    assert moved(hosts_of(places), None).peer == "20"
    decision = moved(hosts_of(places), lines_of(measured))
    assert (decision.peer, decision.stages) == ("24", (1,))
    assert decision.reason.endswith(
        "; this peer moves because its links to stages 0 and 2 compare best with those it leaves, "
        "of all that could come"
    )


def test_of_equal_movers_one_goes_that_saves_a_stage_from_an_outage():
    places = {**crowd(), "11": (1, "east")}
    decision = moved(hosts_of(places), None)
    assert decision.stages == (1,) and places[str(decision.peer)][1] == "mid"
    assert "without it one region's outage could take stage 1" in decision.reason


def test_of_equal_movers_one_goes_that_leaves_no_stage_to_one_region():
    """Stage 2 has one replica outside the east: it stays, though its id comes first."""
    places = {name: place for name, place in crowd().items() if place[0] != 2}
    places |= {f"2{n}": (2, "east" if n else "west") for n in range(6)}
    assert moved([replace(h, region="") for h in hosts_of(places)], None).peer == "20"
    decision = moved(hosts_of(places), None)
    assert decision.peer == "21"
    assert "that leaves fewest stages to one region's outage" in decision.reason


def test_a_lonely_stage_gets_whoever_stands_elsewhere():
    places = {
        "0a": (0, "east"),
        "1a": (1, "east"),
        "1b": (1, "east"),
        "1c": (1, "west"),
        "1d": (1, "west"),
    }
    decision = moved(hosts_of(places), None)
    assert (decision.peer, decision.stages) == ("1c", (0,))
    assert decision.reason.startswith(
        "stage 0 has one replica where stage 1 has 4; this peer moves"
    )


def test_a_move_that_gains_clearly_more_is_made_whatever_the_links_say():
    places = crowd()
    hosts = [replace(h, seconds_per_stage=0.8) if h.peer == "23" else h for h in hosts_of(places)]
    measured = {(f"0{n}", "24"): NEAR_SECONDS for n in range(3)}
    rest = {(a, b): FAR_SECONDS for a in places for b in places if a < b}
    assert moved(hosts, lines_of({**rest, **measured})).peer == moved(hosts, None).peer


@st.composite
def near_views(draw: st.DrawFn) -> View:
    view = draw(views())
    hosts = tuple(replace(h, region=draw(st.sampled_from(REGIONS))) for h in view.hosts)
    return replace(view, hosts=hosts, lines=draw(some_lines([h.peer for h in hosts])))


@settings(max_examples=150, deadline=None)
@given(near_views(), st.sampled_from((FREE, POLICY)))
def test_whether_anybody_moves_is_throughputs_and_every_move_is_safe(view: View, policy: Policy):
    plain = rebalance(replace(_without_regions(view), lines=None), policy)
    near = rebalance(view, policy)
    assert (near.peer is None) == (plain.peer is None)
    if near.peer is None:
        return
    mover, after = next(h for h in view.hosts if h.peer == near.peer), apply(view, near)
    assert mover.free and (mover.edge_capable or 0 not in near.stages)
    assert min(counts_of(after)) >= 1
    if is_lonely(counts_of(view)):
        assert counts_of(after).count(1) <= counts_of(view).count(1)
    else:
        assert not is_lonely(counts_of(after))
        assert min(rates_of(after)) >= min(rates_of(view)) * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(near_views(), st.sampled_from((FREE, POLICY)))
def test_it_comes_to_rest(view: View, policy: Policy):
    view = replace(view, hosts=tuple(replace(h, load=None) for h in view.hosts))
    seen = {tuple(h.stages for h in view.hosts)}
    for _ in range(100):
        decision = rebalance(view, policy)
        if decision.peer is None:
            return
        view = apply(view, decision)
        layout = tuple(h.stages for h in view.hosts)
        assert layout not in seen, "ping-pong"
        seen.add(layout)
    raise AssertionError("no fixed point")


@settings(max_examples=40, deadline=None)
@given(near_views(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(view: View, chance):
    shuffled = list(view.hosts)
    chance.shuffle(shuffled)
    assert rebalance(replace(view, hosts=tuple(shuffled)), POLICY) == rebalance(view, POLICY)


def _without_regions(view: View) -> View:
    return replace(view, hosts=tuple(replace(h, region="") for h in view.hosts))
