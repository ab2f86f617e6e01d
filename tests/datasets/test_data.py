"""Data sets in memory: their splits, their batches, and users' data sets that are refused."""

from dataclasses import replace

import pytest
import torch

from forcetune.data import Batches, Dataset, Images, load
from forcetune.errors import InputError

pytestmark = pytest.mark.usefixtures("empty_load_cache")


def images(count, channels=1, size=4):
    """Return images of which number i has the class i + 1 and that value in each pixel; padding is 0."""
    values = torch.arange(1, count + 1)
    return Images(values.to(torch.uint8)[:, None, None, None].expand(count, channels, size, size), values)


def dataset(count=20, **changes):
    data = Dataset(train=images(count), test=images(4), classes=count + 1, mean=(0.0,), std=(1 / 255,))
    return replace(data, **changes)


def list_classes(batches):
    return [target for _, targets in batches for target in targets.tolist()]


def test_load_keeps_a_data_set_for_the_next_trial():
    assert load("synthetic") is load("synthetic")
    with pytest.raises(InputError, match="unknown data set 'digit' .did you mean 'digits'"):
        load("digit")


def test_split_is_disjoint_and_whole():
    training, validation = dataset(20, validation=0.25).split(seed=0)
    assert (len(training), len(validation)) == (15, 5)
    assert sorted([*training.targets.tolist(), *validation.targets.tolist()]) == list(range(1, 21))
    assert (training.inputs[:, 0, 0, 0] == training.targets).all()


def test_split_is_drawn_by_the_seed():
    first, repeated, reseeded = (dataset(200).split(seed)[1].targets.tolist() for seed in (0, 0, 1))
    assert first == repeated
    assert first != reseeded
    assert first != sorted(first)


def test_train_samples_are_divided_too():
    training, validation = dataset(200).split(0, samples=50)
    assert (len(training), len(validation)) == (45, 5)
    assert len({*training.targets.tolist(), *validation.targets.tolist()}) == 50
    assert max(training.targets.tolist()) > 50, "drawn, not the first"


def test_at_least_one_is_trained_on():
    training, validation = dataset(20, validation=1.0).split(0)
    assert (len(training), len(validation)) == (1, 19)


def test_at_least_one_is_held_out():
    training, validation = dataset(20).split(0, samples=2)
    assert (len(training), len(validation)) == (1, 1)
    assert len(dataset(20).split(0, samples=20)[0]) == 18


@pytest.mark.parametrize("samples", [1, 21])
def test_train_samples_out_of_bounds_are_refused(samples):
    with pytest.raises(InputError, match=f"train_samples {samples}: allowed: 2 to 20"):
        dataset(20).split(0, samples)


def test_images_are_normalised_as_if_divided():
    # The images have each byte in each of two channels, and are compared bit for bit in float32
    inputs = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 2, 16, 16)
    images = Images(inputs, torch.tensor([0, 1]))
    data = Dataset(images, images, classes=2, mean=(0.2860, 0.305), std=(0.3530, 0.376))
    ((normalised, _),) = Batches(data, images, 2)
    mean, std = (torch.tensor(values).view(1, 2, 1, 1) for values in (data.mean, data.std))
    assert normalised.dtype == torch.float32
    assert torch.equal(normalised, (inputs.float() / 255 - mean) / std)


def test_batches_are_in_order_without_a_seed():
    batches = Batches(dataset(), images(7), 3)
    assert [targets.tolist() for _, targets in batches] == [[1, 2, 3], [4, 5, 6], [7]]
    assert len(batches) == 3
    assert torch.allclose(next(iter(batches))[0][:, 0, 0, 0], torch.tensor([1.0, 2.0, 3.0]))


def test_batches_are_shuffled_anew_in_each_pass_and_alike_for_a_seed():
    batches, same_batches = (Batches(dataset(), images(20), 6, seed=5) for _ in range(2))
    first, second = list_classes(batches), list_classes(batches)
    assert sorted(first) == sorted(second) == list(range(1, 21))
    assert first != second
    assert (first, second) == (list_classes(same_batches), list_classes(same_batches))
    assert first != list_classes(Batches(dataset(), images(20), 6, seed=6))


def test_inputs_stay_with_their_targets():
    for inputs, targets in Batches(dataset(), images(20), 6, seed=0):
        assert torch.allclose(inputs[:, 0, 0, 0], targets.float())


@pytest.mark.parametrize(
    ("count", "size", "shuffled", "in_order"),
    [
        (7, 3, [3, 3], [3, 3, 1]),  # one image would be left, on which batch norm cannot train
        (8, 3, [3, 3, 2], [3, 3, 2]),
        (6, 3, [3, 3], [3, 3]),
        (1, 3, [1], [1]),  # there is no other image
        (3, 1, [1, 1, 1], [1, 1, 1]),  # the batch size itself is 1
        (3, 9, [3], [3]),
    ],
)
def test_sizes_of_batches(count, size, shuffled, in_order):
    for seed, sizes in ((0, shuffled), (None, in_order)):
        batches = Batches(dataset(), images(count), size, seed)
        assert [len(targets) for _, targets in batches] == sizes
        assert len(batches) == len(sizes)


def noise(count=40, channels=2, height=5, width=7):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return Images(inputs, torch.arange(count))


def augmented(images, pad, flip, seed=0):
    data = Dataset(images, images, classes=len(images), mean=(0.0, 0.0), std=(1 / 255, 1 / 255), pad=pad, flip=flip)
    ((inputs, targets),) = Batches(data, images, len(images), seed)
    return inputs.round().to(torch.uint8), targets


def test_no_augmentation_where_none_is_asked_for():
    images = noise()
    inputs, targets = augmented(images, pad=0, flip=False)
    assert torch.equal(inputs, images.inputs[targets])


def test_shifts_by_up_to_pad_in_each_direction():
    images = noise()
    inputs, targets = augmented(images, pad=1, flip=False)
    assert inputs.shape == images.inputs.shape
    padded = torch.nn.functional.pad(images.inputs, (1, 1, 1, 1))
    shifts = {(y, x): padded[:, :, y : y + 5, x : x + 7] for y in range(3) for x in range(3)}

    def shift_of(image, index):
        (offset,) = [shift for shift, shifted in shifts.items() if torch.equal(shifted[index], image)]
        return offset

    assert {shift_of(*pair) for pair in zip(inputs, targets, strict=True)} == {*shifts}, "all of them are drawn"


def test_flips_half_of_the_images_left_to_right():
    images = noise()
    inputs, targets = augmented(images, pad=0, flip=True)
    originals = images.inputs[targets]
    unchanged = (inputs == originals).flatten(1).all(1)
    mirrored = (inputs == originals.flip(-1)).flatten(1).all(1)
    assert (unchanged ^ mirrored).all()
    assert 10 < int(mirrored.sum()) < 30


def test_augmentation_follows_the_seed_and_is_new_in_each_pass():
    data = replace(dataset(), train=noise(channels=1), pad=2, flip=True)
    batches, same_batches = (Batches(data, data.train, 40, seed=1) for _ in range(2))
    first, second = next(iter(batches)), next(iter(batches))
    assert torch.equal(first[0], next(iter(same_batches))[0])
    by_class = [inputs[targets.argsort()] for inputs, targets in (first, second)]
    assert not torch.equal(*by_class)


def test_images_in_order_are_not_augmented():
    images = noise(channels=1)
    data = replace(dataset(), pad=2, flip=True)
    ((inputs, _),) = Batches(data, images, 40)
    assert torch.equal(inputs.round().to(torch.uint8), images.inputs)


def test_a_users_augmentation_takes_the_place_of_pad_and_flip():
    def negative(inputs, generator):
        assert inputs.dtype == torch.uint8
        drawn.append(int(torch.randint(1000, (), generator=generator)))
        return 255 - inputs

    drawn = []
    data = dataset(pad=2, flip=True, augment=negative)
    for inputs, targets in data.batches(data.train, 6, seed=0):
        assert torch.equal(inputs.round(), (255 - targets.float())[:, None, None, None].expand_as(inputs))
    assert len(set(drawn)) == 4, "drawn anew for each batch"
    ((inputs, targets),) = data.batches(data.test, 4)
    assert torch.equal(inputs[:, 0, 0, 0].round(), targets.float()), "in order as they are"


def test_a_users_validation_split_is_whole_and_fixed():
    data = dataset(20, validation=images(7))
    training, validation = data.split(seed=0, samples=5)
    assert len({*training.targets.tolist()}) == len(training) == 5
    assert validation.targets.tolist() == [*range(1, 8)]
    assert sorted(data.split(seed=1)[0].targets.tolist()) == [*range(1, 21)]


def test_all_splits_go_to_the_device():
    moved = dataset(20, validation=images(7)).to("meta")
    assert {split.inputs.device.type for split in (*moved.split(0), moved.test)} == {"meta"}
    assert dataset(20).to("cpu").validation == 0.1


def make_classes(*counts):
    """Return a data set with so many images of each class, in which each image has another value."""
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    inputs = torch.arange(len(targets), dtype=torch.uint8)[:, None, None, None]
    return Dataset(*(Images(inputs, targets),) * 2, classes=len(counts), mean=(0.0,), std=(1 / 255,))


def draw_by_class(batches, passes):
    """Return the images of each class in the order in which they are drawn, batch by batch."""
    drawn = {}
    for _ in range(passes):
        for inputs, targets in batches:
            for label in targets.unique().tolist():
                drawn.setdefault(label, []).append(inputs[targets == label].flatten().round().int().tolist())
    return drawn


def test_class_balanced_batches():
    data = make_classes(7, 5, 20)
    batches = data.batches(data.train, batch_size=99, seed=3, per_class=2)
    assert len(batches) == 2, "the smallest class has 5"
    drawn = draw_by_class(batches, passes=35)
    for label, members in enumerate((range(7), range(7, 12), range(12, 32))):
        assert [len(set(class_batch)) for class_batch in drawn[label]] == [2] * 70, (
            "two of each class, never the same one"
        )
        in_order = [image for class_batch in drawn[label] for image in class_batch]
        rounds = [in_order[start : start + len(members)] for start in range(0, 140, len(members))]
        assert all(sorted(drawn_members) == [*members] for drawn_members in rounds), (
            "all of them before one comes again"
        )
        assert len({*map(tuple, rounds)}) > 1, "in a new order each time"


def test_class_balanced_batches_follow_the_seed():
    data = make_classes(7, 5)
    first, repeated, reseeded = (draw_by_class(data.batches(data.train, 9, seed, per_class=3), 2) for seed in (0, 0, 1))
    assert first == repeated != reseeded


def test_class_balanced_batches_of_all_images():
    data = make_classes(3, 3)
    (class_batch,) = draw_by_class(data.batches(data.train, 9, seed=0, per_class=3), 1)[1]
    assert sorted(class_batch) == [3, 4, 5]


def test_too_few_images_for_class_balanced_batches_are_refused():
    data = make_classes(3, 0, 4, 2)
    with pytest.raises(InputError, match="need 4 training samples .* class 0 has 3, class 1 has 0, class 3 "):
        data.batches(data.train, 9, seed=0, per_class=4)
    many = make_classes(*[1] * 9)
    with pytest.raises(InputError, match=r"class 4 has 1 and 4 more classes .*raise train_samples or lower"):
        many.batches(many.train, 9, seed=0, per_class=2)


def test_class_balanced_batches_need_a_seed():
    data = make_classes(3, 3)
    with pytest.raises(ValueError, match="needs a seed"):
        data.batches(data.train, 9, per_class=1)


IN_MEMORY_DATA_SOURCE = """
from dataclasses import replace
import torch
from forcetune.data import Dataset, Images

def part(inputs=None, targets=None):
    inputs = torch.zeros(4, 1, 5, 6, dtype=torch.uint8) if inputs is None else inputs
    return Images(inputs, torch.tensor([0, 1, 2, 0]) if targets is None else targets)

GOOD = Dataset(train=part(), test=part(), classes=3, mean=(0.5,), std=(0.5,))

def good(root):
    return replace(GOOD, validation=0.5) if root == "half" else GOOD

def fails(root):
    return open("no such file")

def something_else(root):
    return [GOOD.train, GOOD.test]

def floats(root):
    return replace(GOOD, train=part(inputs=torch.zeros(4, 1, 5, 6)))

def no_channels(root):
    return replace(GOOD, test=part(inputs=torch.zeros(4, 5, 6, dtype=torch.uint8)))

def other_channels(root):
    return replace(GOOD, mean=(0.5,) * 3, std=(0.5,) * 3)

def other_std(root):
    return replace(GOOD, std=(0.5,) * 3)

def narrow_targets(root):
    return replace(GOOD, train=part(targets=torch.tensor([0, 1, 2, 0], dtype=torch.int32)))

def fewer_targets(root):
    return replace(GOOD, test=part(targets=torch.tensor([0, 1, 2])))

def a_single_one(root):
    return replace(GOOD, test=GOOD.test.take(torch.tensor([0])))

def too_many_classes(root):
    return replace(GOOD, test=part(targets=torch.tensor([0, 1, 2, 3])))

def negative(root):
    return replace(GOOD, train=part(targets=torch.tensor([0, 1, -1, 0])))

def other_size(root):
    return replace(GOOD, test=part(inputs=torch.zeros(4, 1, 6, 6, dtype=torch.uint8)))

def nothing_to_train_on(root):
    return replace(GOOD, validation=1.0)

def arrays(root):
    return replace(GOOD, train=Images([[0]], [0]))

def no_images(root):
    return replace(GOOD, test=(GOOD.test.inputs, GOOD.test.targets))

def own_validation(root):
    return replace(GOOD, validation=part(), augment=lambda images, generator: 255 - images)

def own_validation_of_another_class(root):
    return replace(GOOD, validation=part(targets=torch.tensor([0, 1, 2, 3])))

def own_validation_of_another_size(root):
    return replace(GOOD, validation=part(inputs=torch.zeros(4, 1, 6, 6, dtype=torch.uint8)))

def own_validation_as_a_tuple(root):
    return replace(GOOD, validation=(GOOD.test.inputs, GOOD.test.targets))

def no_function(root):
    return replace(GOOD, augment="flip")

def augments_to_floats(root):
    return replace(GOOD, augment=lambda images, generator: images / 255)

def augments_to_another_size(root):
    return replace(GOOD, augment=lambda images, generator: images[:, :, 1:])

def augment_fails(root):
    return replace(GOOD, augment=lambda images: images)
"""


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(IN_MEMORY_DATA_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_users_loader(own_data):
    assert load("own_data:good").input_shape == (1, 5, 6)
    assert load("own_data:good", "half").validation == 0.5
    assert len(load("own_data:own_validation").split(0)[1]) == 4


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", ": its loader raised FileNotFoundError"),
        ("something_else", ": the loader returned list, not a forcetune.data.Dataset or Streamed"),
        ("floats", r": train: inputs must be uint8 of shape \(N, 1, H, W\).*; got torch.float32 \(4, 1, 5, 6\)"),
        ("no_channels", r": test: inputs must be .*; got torch.uint8 \(4, 5, 6\)"),
        ("other_channels", r": train: inputs must be uint8 of shape \(N, 3, H, W\)"),
        ("narrow_targets", r": train: targets must be int64 of shape \(4,\), .*; got torch.int32 \(4,\)"),
        ("fewer_targets", r": test: targets must be int64 of shape \(4,\), .*; got torch.int64 \(3,\)"),
        ("a_single_one", ": test: targets must be .* at least 2"),
        ("too_many_classes", r": test: targets must lie in 0..2; got 0..3"),
        ("negative", r": train: targets must lie in 0..2; got -1..1"),
        ("other_std", r": mean and std must have .*; got \(0.5,\) and \(0.5, 0.5, 0.5\)"),
        ("other_size", r": the images of test have shape \(1, 6, 6\), .* \(1, 5, 6\)"),
        ("nothing_to_train_on", ": validation must be a share of train between 0 and 1.*; got 1.0"),
        ("arrays", ": train: inputs must be"),
        ("no_images", ": test: must be forcetune.data.Images; got tuple"),
        ("own_validation_of_another_class", ": validation: targets must lie in 0..2; got 0..3"),
        ("own_validation_of_another_size", r": the images of validation have shape \(1, 6, 6\)"),
        ("own_validation_as_a_tuple", ": validation must be a share of train .*Images; got"),
        ("no_function", ": augment must be a function of .*; got 'flip'"),
        ("augments_to_floats", r": augment must return uint8 .* \(2, 1, 5, 6\); got torch.float32 \(2, 1, 5, 6\)"),
        ("augments_to_another_size", r": augment must return uint8 .*; got torch.uint8 \(2, 1, 4, 6\)"),
        ("augment_fails", ": augment raised TypeError"),
    ],
)
def test_a_users_loader_that_is_refused(own_data, function, message):
    with pytest.raises(InputError, match=f"data set 'own_data:{function}'.*{message}"):
        load(f"own_data:{function}")


def list_shares(batches, size):
    """Return the shares of a pass by batch, in the order of the processes."""
    return list(zip(*[list(batches().share(rank, size)) for rank in range(size)], strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"pad": 1, "flip": True},
        {"augment": lambda inputs, generator: inputs + torch.randint(9, inputs.shape, generator=generator)},
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_several_processes_are_the_batches_of_one(changes, size):
    data = dataset(**changes)
    unsplit = list(Batches(data, data.train, 8, seed=0))
    shares = list_shares(lambda: Batches(data, data.train, 8, seed=0), size)
    assert [len(targets) for _, targets in unsplit] == [8, 8, 4]
    for (inputs, targets), batch_shares in zip(unsplit[:2], shares[:2], strict=True):
        assert torch.equal(torch.cat([inputs for inputs, _ in batch_shares]), inputs)
        assert torch.equal(torch.cat([targets for _, targets in batch_shares]), targets)
        sizes = [len(targets) for _, targets in batch_shares]
        assert max(sizes) - min(sizes) <= 1
    if size == 3:
        assert all(torch.equal(inputs, unsplit[2][0]) for inputs, _ in shares[2]), (
            "4 images are too few for 3 processes"
        )


def test_batches_know_their_sizes():
    data = dataset()
    plain = Batches(data, data.train, 8, seed=0)
    balanced = Batches(replace(data, classes=2), Images(data.train.inputs, data.train.targets % 2), 1, 0, per_class=3)
    for batches in (plain, balanced, plain.share(1, 2)):
        sizes = [len(targets) for _, targets in batches]
        counts = [batches.count_samples(index) for index in range(len(batches))]
        assert counts == ([8, 8, 4] if batches is not balanced else sizes)


def test_a_share_goes_on_from_the_state_of_the_whole():
    data = dataset(pad=1)
    first = Batches(data, data.train, 8, seed=0)
    list(first)
    share = Batches(data, data.train, 8, seed=0).share(0, 2)
    share.restore(first.state())
    expected = [inputs[: len(inputs) // 2] for inputs, _ in first]
    assert all(torch.equal(inputs, half) for (inputs, _), half in zip(share, expected, strict=True))
