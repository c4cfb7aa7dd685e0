from concurrent.futures import ThreadPoolExecutor

from app.domain.ids import Prefix, is_id, new_id


def test_ids_sort_in_the_order_they_were_made():
    ids = [new_id(Prefix.JOB) for _ in range(5000)]  # many a millisecond
    assert ids == sorted(ids)
    assert all(is_id(Prefix.JOB, id_) for id_ in ids)


def test_threads_never_make_the_same():
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(Prefix.JOB), range(4000)))
    assert len(set(ids)) == 4000
