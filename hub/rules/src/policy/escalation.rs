//! Rights by which the holder of a policy gains more.
//!
//! Source: IAM User Guide, actions that change identities or hand a role to a service, and the
//! public list of ways that AWS customers' penetration testers keep.

use super::document::Policy;
use super::power;

/// Each line is a way: whoever may do all of its actions can gain other rights.
const WAYS: &[&[&str]] = &[
    // Changing what a policy says or whom it is attached to.
    &["iam:createpolicyversion"],
    &["iam:setdefaultpolicyversion"],
    &["iam:attachuserpolicy"],
    &["iam:attachgrouppolicy"],
    &["iam:attachrolepolicy", "sts:assumerole"],
    &["iam:putuserpolicy"],
    &["iam:putgrouppolicy"],
    &["iam:putrolepolicy", "sts:assumerole"],
    &["iam:addusertogroup"],
    // Becoming somebody else.
    &["iam:updateassumerolepolicy", "sts:assumerole"],
    &["iam:createaccesskey"],
    &["iam:createloginprofile"],
    &["iam:updateloginprofile"],
    // Handing a role to a machine that one controls.
    &["iam:passrole", "ec2:runinstances"],
    &["iam:passrole", "ec2:requestspotinstances"],
    &[
        "iam:passrole",
        "lambda:createfunction",
        "lambda:invokefunction",
    ],
    &[
        "iam:passrole",
        "lambda:createfunction",
        "lambda:addpermission",
    ],
    &[
        "iam:passrole",
        "lambda:createfunction",
        "lambda:createeventsourcemapping",
    ],
    &["iam:passrole", "glue:createdevendpoint"],
    &["iam:passrole", "glue:createjob", "glue:startjobrun"],
    &["iam:passrole", "glue:createjob", "glue:createtrigger"],
    &["iam:passrole", "cloudformation:createstack"],
    &[
        "iam:passrole",
        "datapipeline:createpipeline",
        "datapipeline:putpipelinedefinition",
    ],
    &["iam:passrole", "codestar:createproject"],
    &[
        "iam:passrole",
        "codebuild:createproject",
        "codebuild:startbuild",
    ],
    &[
        "iam:passrole",
        "sagemaker:createnotebookinstance",
        "sagemaker:createpresignednotebookinstanceurl",
    ],
    &["iam:passrole", "sagemaker:createtrainingjob"],
    &["iam:passrole", "sagemaker:createprocessingjob"],
    &["iam:passrole", "ecs:registertaskdefinition", "ecs:runtask"],
    &["iam:passrole", "apprunner:createservice"],
    &[
        "iam:passrole",
        "autoscaling:createlaunchconfiguration",
        "autoscaling:createautoscalinggroup",
    ],
    &[
        "iam:passrole",
        "bedrock-agentcore:createcodeinterpreter",
        "bedrock-agentcore:invokecodeinterpreter",
    ],
    // Changing what runs under a role already.
    &["lambda:updatefunctioncode"],
    &["iam:passrole", "lambda:updatefunctionconfiguration"],
    &["glue:updatedevendpoint"],
    &["iam:passrole", "glue:updatejob", "glue:startjobrun"],
    &["cloudformation:updatestack"],
    &["codebuild:updateproject", "codebuild:startbuild"],
    &["sagemaker:createpresignednotebookinstanceurl"],
    &["ec2-instance-connect:sendsshpublickey"],
    &["ssm:sendcommand"],
    &["ssm:startsession"],
    &["codestar:associateteammember"],
    // Taking one's own limit away.
    &["iam:deleterolepermissionsboundary"],
    &["iam:deleteuserpermissionsboundary"],
    &["iam:putrolepermissionsboundary"],
    &["iam:putuserpermissionsboundary"],
];

/// Whether the statements together allow one of the ways.
pub(super) fn escalates(policy: &Policy) -> bool {
    WAYS.iter()
        .any(|way| way.iter().all(|action| power::may(policy, action)))
}
