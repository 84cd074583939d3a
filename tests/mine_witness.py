"""Hard negatives by the whole matrix of scores and plain loops."""

import numpy as np


def same(a, b, twins):
    """Whether two items are one, instructions aside."""
    texts = [" ".join((x.text or "").lower().split()) for x in (a, b)]
    media = [(twins.get(x.image, x.image), twins.get(x.video, x.video)) for x in (a, b)]
    return texts[0] == texts[1] and media[0] == media[1] and a[4:6] == b[4:6]


def kinds(item):
    return [bool(x) for x in item[1:4]]


def brute_force(pairs, vector, options, corpus=(), twins=None):
    """(negatives, scores) of each pair, and how often each verdict was met."""
    twins = twins or {}
    candidates = []

    def place(item):
        """Of the candidate that it is, or None."""
        for i, c in enumerate(candidates):
            if same(item, c, twins):
                return i
        return None

    wanted = [kinds(p.target) for p in pairs]
    more = [item for item in corpus if kinds(item) in wanted]
    for item in [p.target for p in pairs] + more:
        if place(item) is None:
            candidates.append(item)
    target_of = [place(p.target) for p in pairs]
    table = np.stack([vector(c) for c in candidates])
    cosines = table @ table.T
    results, met = [], {}
    for pair, own in zip(pairs, target_of, strict=True):
        alike = [i for i, p in enumerate(pairs) if same(p.query, pair.query, twins)]
        positives = {target_of[i] for i in alike}
        sources = {pairs[i].source_id for i in alike} - {None}
        relatives = {
            t for t, p in zip(target_of, pairs, strict=True) if p.source_id in sources
        }
        itself = place(pair.query)
        query = vector(pair.query)
        positive = float(query @ vector(pair.target))
        if np.isnan(positive):
            results.append(([], []))
            continue
        negatives, scores = [], [positive]
        for item in pair.negatives if options.keep else ():
            if not np.isnan(vector(item)[0]):
                negatives.append(item)
                scores.append(float(query @ vector(item)))
        kept = [place(item) for item in negatives]
        found = table @ query
        rank = 0
        for c in np.argsort(-found, kind="stable").tolist():
            if np.isnan(found[c]):
                continue
            if len(negatives) >= options.negatives or positive <= 0:
                break
            if c == own:
                verdict = "own_target"
            elif c in positives:
                verdict = "other_positive"
            elif c == itself:
                verdict = "query_itself"
            elif c in relatives:
                verdict = "same_source"
            else:
                rank += 1
                if rank > options.last_rank:
                    break
                if rank < options.first_rank:
                    verdict = "before_first_rank"
                elif found[c] >= options.ceiling * positive:
                    verdict = "above_ceiling"
                elif any(cosines[c, p] >= options.near_duplicate for p in positives):
                    verdict = "near_duplicate"
                elif c in kept:
                    verdict = "kept_before"
                else:
                    verdict = "taken"
                    negatives.append(candidates[c])
                    scores.append(float(found[c]))
            met[verdict] = met.get(verdict, 0) + 1
        results.append((negatives, scores))
    return results, met
