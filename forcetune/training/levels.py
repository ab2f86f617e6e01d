"""The levels of a training that starts again from one of its early steps, with fewer weights each time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Levels:
    """The passes over the data, level by level; an ordinary training has one level.

    The first level has all steps of the training. Each later one begins at the rewinding point, with the data, the
    learning rate and the number of remaining steps of that point.

    Attributes:
        epochs: The passes of the first level.
        steps_per_epoch: The steps of a pass.
        count: The number of levels.
        rewind_step: The number of steps before the rewinding point; less than the steps of the first level.
    """

    epochs: int
    steps_per_epoch: int
    count: int = 1
    rewind_step: int = 0

    @property
    def steps(self) -> int:
        """The number of steps of the first level, to which the schedule of the learning rate refers."""
        return self.epochs * self.steps_per_epoch

    @property
    def total_epochs(self) -> int:
        """The number of passes of all levels."""
        return self.epochs + (self.count - 1) * self._later_epochs

    def begins_level(self, epoch: int) -> bool:
        """Return whether a later level begins after this number of passes."""
        return self.count > 1 and epoch >= self.epochs and (epoch - self.epochs) % self._later_epochs == 0

    def locate(self, epoch: int) -> tuple[int, int]:
        """Return where a pass begins.

        Args:
            epoch: The number of passes before it, over all levels.

        Returns:
            The number of steps of its level before it, and the number of batches that the pass leaves out.
        """
        if epoch < self.epochs:
            return epoch * self.steps_per_epoch, 0
        first_epoch, first_batch = divmod(self.rewind_step, self.steps_per_epoch)
        level_epoch = (epoch - self.epochs) % self._later_epochs
        skipped = first_batch if level_epoch == 0 else 0
        return (first_epoch + level_epoch) * self.steps_per_epoch + skipped, skipped

    def count_steps(self, epoch: int) -> int:
        """Return the number of steps in this number of passes, over all levels."""
        if epoch <= self.epochs:
            return epoch * self.steps_per_epoch
        levels, level_epoch = divmod(epoch - self.epochs, self._later_epochs)
        position = self.locate(epoch)[0] if level_epoch else self.rewind_step
        return self.steps + levels * (self.steps - self.rewind_step) + position - self.rewind_step

    @property
    def _later_epochs(self) -> int:
        return self.epochs - self.rewind_step // self.steps_per_epoch
