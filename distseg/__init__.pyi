from distseg.api import RunFailed as RunFailed
from distseg.api import compare_runs as compare_runs
from distseg.api import export_run as export_run
from distseg.api import export_student as export_student
from distseg.api import load_ensemble as load_ensemble
from distseg.api import load_run as load_run
from distseg.api import predict_folder as predict_folder
from distseg.api import run as run
from distseg.api import score_submission as score_submission
from distseg.functional import losses as losses
from distseg.functional import metrics as metrics
from distseg.functional import rle as rle
from distseg.records.errors import UserError as UserError

__version__: str
