from setpoint.feature.v1 import audit_service_pb2 as pb
from setpoint_feature import testing
from setpoint_feature.testing import Start
from setpoint_runtime import errors

NOBODY = "127.0.0.1:1"


async def test_replay_without_an_address_is_refused(start: Start) -> None:
    """Where nobody can be asked for records, that is said rather than that nothing differs."""
    async with start() as running:
        for call in (
            running.audit.GetSkewReport(pb.GetSkewReportRequest()),
            running.audit.ReplayPredictions(pb.ReplayPredictionsRequest()),
        ):
            error = await testing.error_of(call)
            assert error.reason is errors.Reason.UNIMPLEMENTED
            assert "SETPOINT_FEATURE_MONITORING_ADDRESS" in error.message


async def test_replay_goes_on_without_monitoring(start: Start) -> None:
    """While monitoring is away the service does its other work, and the report says that nothing was done."""
    async with start(monitoring_address=NOBODY, skew_seconds=0.01) as running:
        error = await testing.error_of(
            running.audit.ReplayPredictions(pb.ReplayPredictionsRequest())
        )
        assert isinstance(error, errors.UnavailableError)
        report = await running.audit.GetSkewReport(pb.GetSkewReportRequest())
        assert (report.replay_time, report.is_replaying, len(report.feature_sets)) == (0, True, 0)


async def test_bad_question_is_named(start: Start) -> None:
    """A number out of its range is refused with its field."""
    async with start(monitoring_address=NOBODY) as running:
        replay = running.audit.ReplayPredictions
        for call, field in (
            (replay(pb.ReplayPredictionsRequest(basis_points=10_001)), "basis_points"),
            (replay(pb.ReplayPredictionsRequest(after_record_id=-1)), "after_record_id"),
            (running.audit.GetSkewReport(pb.GetSkewReportRequest(examples=21)), "examples"),
        ):
            error = await testing.error_of(call)
            assert error.violations[0].field == field
